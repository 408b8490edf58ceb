// SPDX-License-Identifier: MIT OR Apache-2.0
//! `tcptools metrics`: numbers equal the kernel's own counters, whatever reads them.

mod bounds;
mod http;
mod outputs;
mod prometheus;
mod scene;
mod shipped;
mod sums;

use libtest_mimic::Trial;

use crate::trial::{group, trial};
use scene::trials;

pub fn tests() -> Vec<Trial> {
    group([
        trials("sums", sums::opens_and_ends),
        trials("retransmissions", sums::retransmissions),
        trials("resets", sums::resets),
        trials("listener", sums::listener),
        trials("drops", sums::drops),
        trials("late_start", sums::late_start),
        vec![
            trial("metrics::filters_and_labels", bounds::filters_and_labels),
            trial("metrics::series_bound", bounds::series_bound),
            trial("metrics::series_expire", bounds::series_expire),
            trial("metrics::day", bounds::day),
            trial("metrics::http_garbage", http::garbage),
            trial("metrics::http_slow", http::slow),
            trial("metrics::http_many", http::many),
            trial("metrics::http_v6", http::v6),
            trial("metrics::textfile", outputs::textfile),
            trial("metrics::once", outputs::once),
            trial("metrics::refusals", outputs::refusals),
            trial("metrics::prometheus", prometheus::scrapes),
            trial("metrics::promtool", shipped::promtool),
            trial("metrics::rules", shipped::rules),
            trial("metrics::dashboard", shipped::dashboard),
        ],
    ])
}
