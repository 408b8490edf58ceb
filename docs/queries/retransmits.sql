-- Who sends again to whom? An RTO is a stall of that length; the same peer from several hosts is a bad path or a bad
-- peer, one host to many peers is that host's own link.
SELECT host, comm, raddr, rport, count(*) AS segments, sum(CASE WHEN kind = 'rto' THEN 1 ELSE 0 END) AS rto,
    count(DISTINCT cookie) AS connections, round(max(rto_us) / 1000.0, 1) AS longest_rto_ms
FROM rows
WHERE tool = 'tcpretrans' AND event = 'retransmit'
GROUP BY host, comm, raddr, rport
ORDER BY segments DESC, host, raddr, rport
LIMIT 20;
