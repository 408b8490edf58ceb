-- What do the hosts themselves throw away, and why?
SELECT host, direction, reason, "where", lport, count(*) AS segments, count(DISTINCT raddr) AS peers
FROM rows
WHERE tool = 'tcpdrop' AND event = 'drop'
GROUP BY host, direction, reason, "where", lport
ORDER BY segments DESC, host, reason, lport
LIMIT 20;
