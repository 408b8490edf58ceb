-- Who moves most? Of sessions that have ended; the port is the lower one of both ends, which is mostly the server's.
SELECT host, comm, raddr, CASE WHEN lport < rport THEN lport ELSE rport END AS port, count(*) AS sessions,
    sum(tx_bytes) AS tx_bytes, sum(rx_bytes) AS rx_bytes
FROM rows
WHERE tool = 'tcplife' AND event = 'session'
GROUP BY host, comm, raddr, CASE WHEN lport < rport THEN lport ELSE rport END
ORDER BY sum(tx_bytes) + sum(rx_bytes) DESC, host, raddr, port
LIMIT 20;
