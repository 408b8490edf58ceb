-- Which connections do not move, and whose turn is it?
SELECT host, comm, raddr, rport, why, count(DISTINCT cookie) AS connections,
    round(max(why_us) / 1e6, 1) AS longest_s
FROM rows
WHERE tool = 'tcptop' AND event = 'stalled' AND why_us >= 1000000
GROUP BY host, comm, raddr, rport, why
ORDER BY max(why_us) DESC, host, raddr, rport
LIMIT 20;
