-- How far are the hosts' clocks apart? The client is connected when the SYN/ACK arrives, the server when the ACK does,
-- half a round trip later. What is more is the difference of the clocks, up to half a round trip wrong.
SELECT c.host AS client, s.host AS server, count(*) AS handshakes,
    round(avg(s.unix_ns - c.unix_ns - c.latency_us * 500) / 1e6, 3) AS server_ahead_ms,
    round(max(c.latency_us) / 2000.0, 3) AS up_to_ms_wrong
FROM rows AS c
JOIN rows AS s ON s.tool = 'tcpaccept' AND s.event = 'accept'
    AND c.laddr = s.raddr AND c.lport = s.rport AND c.raddr = s.laddr AND c.rport = s.lport
WHERE c.tool = 'tcpconnect' AND c.event = 'connect' AND c.outcome = 'established' AND c.syn_retrans = 0
    AND c.host <> s.host
GROUP BY c.host, s.host
ORDER BY client, server;
