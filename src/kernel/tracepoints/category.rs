// SPDX-License-Identifier: MIT OR Apache-2.0
//! What BTF does not say about networking tracepoints: the category and the class of their records.

/// `TRACE_SYSTEM` in `include/trace/events/*.h`, and the events there (4.16 to 7.3).
const CATEGORIES: &[(&str, &[&str])] = &[
    ("icmp", &["icmp_send"]),
    (
        "mptcp",
        &[
            "ack_update_msk",
            "get_mapping_status",
            "mptcp_sendmsg_frag",
            "mptcp_subflow_get_send",
            "subflow_check_data_avail",
        ],
    ),
    ("napi", &["dql_stall_detected", "napi_poll"]),
    (
        "net",
        &[
            "napi_gro_frags_entry",
            "napi_gro_frags_exit",
            "napi_gro_receive_entry",
            "napi_gro_receive_exit",
            "net_dev_queue",
            "net_dev_start_xmit",
            "net_dev_xmit",
            "net_dev_xmit_timeout",
            "netif_receive_skb",
            "netif_receive_skb_entry",
            "netif_receive_skb_exit",
            "netif_receive_skb_list_entry",
            "netif_receive_skb_list_exit",
            "netif_rx",
            "netif_rx_entry",
            "netif_rx_exit",
            "netif_rx_ni_entry",
            "netif_rx_ni_exit",
        ],
    ),
    (
        "qdisc",
        &[
            "qdisc_create",
            "qdisc_dequeue",
            "qdisc_destroy",
            "qdisc_enqueue",
            "qdisc_reset",
        ],
    ),
    (
        "skb",
        &["consume_skb", "kfree_skb", "skb_copy_datagram_iovec"],
    ),
    (
        "sock",
        &[
            "inet_sk_error_report",
            "inet_sock_set_state",
            "sk_data_ready",
            "sock_exceed_buf_limit",
            "sock_rcvqueue_full",
            "sock_recv_length",
            "sock_send_length",
        ],
    ),
    (
        "tcp",
        &[
            "tcp_ao_handshake_failure",
            "tcp_ao_key_not_found",
            "tcp_ao_mismatch",
            "tcp_ao_rcv_sne_update",
            "tcp_ao_rnext_request",
            "tcp_ao_snd_sne_update",
            "tcp_ao_synack_no_key",
            "tcp_ao_wrong_maclen",
            "tcp_bad_csum",
            "tcp_cong_state_set",
            "tcp_destroy_sock",
            "tcp_hash_ao_required",
            "tcp_hash_bad_header",
            "tcp_hash_md5_mismatch",
            "tcp_hash_md5_required",
            "tcp_hash_md5_unexpected",
            "tcp_probe",
            "tcp_rcv_space_adjust",
            "tcp_rcvbuf_grow",
            "tcp_receive_reset",
            "tcp_retransmit_skb",
            "tcp_retransmit_synack",
            "tcp_send_reset",
            "tcp_sendmsg_locked",
        ],
    ),
    ("udp", &["udp_fail_queue_rcv_skb"]),
];

/// The category of a networking tracepoint, or `None` for one that is not in the table.
pub fn of(event: &str) -> Option<&'static str> {
    let has = |(_, events): &&(&str, &[&str])| events.contains(&event);
    CATEGORIES.iter().find(has).map(|(category, _)| *category)
}

/// The event class whose record an event has (`DEFINE_EVENT`), where that is not its own name.
///
/// `tcp_retransmit_skb` and `tcp_send_reset` shared a class before they got records of their own (6.17 and 6.11).
pub fn class(event: &str) -> Option<&'static str> {
    Some(match event {
        "tcp_retransmit_skb" | "tcp_send_reset" => "tcp_event_sk_skb",
        "tcp_destroy_sock" | "tcp_receive_reset" | "tcp_rcv_space_adjust" => "tcp_event_sk",
        "tcp_bad_csum" => "tcp_event_skb",
        "sock_send_length" | "sock_recv_length" => "sock_msg_length",
        "get_mapping_status" | "mptcp_sendmsg_frag" => "mptcp_dump_mpext",
        "net_dev_queue" | "netif_receive_skb" | "netif_rx" => "net_dev_template",
        _ if event.starts_with("napi_gro_") || event.starts_with("netif_r") => {
            match event.ends_with("_exit") {
                true => "net_dev_rx_exit_template",
                false => "net_dev_rx_verbose_template",
            }
        }
        "tcp_ao_synack_no_key" => "tcp_ao_event_sk",
        "tcp_ao_snd_sne_update" | "tcp_ao_rcv_sne_update" => "tcp_ao_event_sne",
        _ if event.starts_with("tcp_hash_") => "tcp_hash_event",
        _ if event.starts_with("tcp_ao_") => "tcp_ao_event",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::{read_by, shown_by, why_unused};

    /// Those of all kernels, the newest included: a command uses it, or there is a reason why none does.
    #[test]
    fn every_tracepoint_of_tcp_is_accounted_for() {
        let mine = |(category, _): &&(&str, &[&str])| ["sock", "tcp"].contains(category);
        for event in CATEGORIES
            .iter()
            .filter(mine)
            .flat_map(|(_, events)| *events)
        {
            let used = !shown_by(event).is_empty() || !read_by(event).is_empty();
            assert!(used || why_unused(event).is_some(), "{event}");
        }
    }
}
