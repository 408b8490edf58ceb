-- Which handshakes are the slowest? With a SYN sent again the time is the kernel's timer, not the path.
SELECT ts, host, comm, raddr, rport, outcome, round(latency_us / 1000.0, 3) AS ms, syn_retrans
FROM rows
WHERE tool = 'tcpconnect' AND event = 'connect' AND latency_us IS NOT NULL
ORDER BY latency_us DESC
LIMIT 20;
