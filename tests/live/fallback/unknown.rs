// SPDX-License-Identifier: MIT OR Apache-2.0
//! The columns that a command may leave blank without BTF, though it knows them with BTF. Every other one must be
//! known either way: one that becomes unknown fails here, instead of passing as unknown to the kernel.

/// By command: each with the columns.
const UNKNOWN: [(&str, &str); 10] = [
    (
        "sockbuf",
        "comm cookie drops family laddr limit_bytes lport netns pid proto protocol raddr rcvbuf_bytes \
         rcvbuf_locked rmem_alloc_bytes rport sndbuf_bytes tune uid used_bytes wmem_alloc_bytes \
         wmem_queued_bytes",
    ),
    (
        "tcpaccept",
        "accept_queue accept_queue_max comm cookie listener_cookie netns pid uid",
    ),
    ("tcpconnect", "cookie errno error netns outcome uid"),
    (
        "tcpinfo",
        "advmss backoff busy_time_us bytes_acked bytes_received bytes_retrans bytes_sent ca_name ca_state \
         data_segs_in data_segs_out delivered delivered_ce delivery_rate_app_limited \
         delivery_rate_bytes_per_s dsack_dups errno error last_ack_recv_us last_data_recv_us last_data_sent_us \
         lost_out min_rtt_us mss notsent_bytes options packets_out pacing_rate_bytes_per_s pmtu rcv_mss rcv_ooopack \
         rcv_rtt_us rcv_space_bytes rcv_ssthresh_bytes rcv_wnd_bytes rcv_wscale reord_seen reordering retrans_out \
         retransmits rto_us rttvar_us rwnd_limited_us sacked_out segs_in segs_out snd_cwnd srtt_us ssthresh \
         snd_wnd_bytes snd_wscale sndbuf_limited_us total_retrans total_rto uid",
    ),
    (
        "tcplife",
        "ca_name close_reason cookie delivery_rate_bytes_per_s errno error idle_us min_rtt_us mss netns rx_bytes \
         snd_cwnd srtt_us total_retrans tx_bytes uid",
    ),
    (
        "tcpprobe",
        "ca_name ca_state delivery_rate_app_limited delivery_rate_bytes_per_s lost_out mss netns \
         pacing_rate_bytes_per_s packets_in_flight packets_out retrans_out retransmits sacked_out \
         ssthresh total_retrans uid",
    ),
    (
        "tcprcvspace",
        "copied_bytes growth measure_us measured netns queued_bytes rcv_rtt_us rcv_ssthresh_bytes \
         rcv_wnd_bytes rcv_space_bytes rcvbuf_bytes rmem_alloc_bytes tcp_rmem_max_bytes uid \
         window_clamp_bytes",
    ),
    (
        "tcpreset",
        "cookie hint idle_us netns rx_bytes trigger_flags tx_bytes uid",
    ),
    (
        "tcpretrans",
        "accept_queue accept_queue_max attempt ca_state cookie in_flight_bytes kind len_bytes netns \
         rto_us segs seq snd_cwnd srtt_us syn_queue tcp_flags by_timer uid",
    ),
    ("tcpstates", "cookie netns uid"),
];

pub fn may_be_unknown(tool: &str, column: &str) -> bool {
    let columns = UNKNOWN.iter().find(|(name, _)| *name == tool);
    columns.is_some_and(|(_, all)| all.split_whitespace().any(|name| name == column))
}
