-- Both ends of each connection, of two hosts: who ended it, and what one sent and the other did not get. As a port may
-- be used again, the ends must have begun within 10 s of each other, by clocks that agree so far (clocks.sql).
WITH sessions AS (
    SELECT *, unix_ns - duration_us * 1000 AS begin_ns
    FROM rows
    WHERE tool = 'tcplife' AND event = 'session'
)
SELECT c.host AS client, c.comm AS client_comm, s.host AS server, s.comm AS server_comm, s.lport AS port,
    count(*) AS connections, c.close_reason AS client_says, s.close_reason AS server_says,
    sum(c.tx_bytes) AS sent, sum(s.rx_bytes) AS arrived, sum(c.total_retrans) + sum(s.total_retrans) AS retransmits
FROM sessions AS c
JOIN sessions AS s ON c.laddr = s.raddr AND c.lport = s.rport AND c.raddr = s.laddr AND c.rport = s.lport
    AND abs(c.begin_ns - s.begin_ns) < 10000000000
JOIN rows AS o ON o.tool = 'tcpconnect' AND o.event = 'connect' AND o.boot_id = c.boot_id AND o.cookie = c.cookie
WHERE c.host <> s.host
GROUP BY c.host, c.comm, s.host, s.comm, s.lport, c.close_reason, s.close_reason
ORDER BY connections DESC, client, server, port
LIMIT 20;
