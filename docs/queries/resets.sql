-- Which host resets connections, and why? Each RST has a row where it is sent and one where it arrives: the sender's
-- row has the reason.
SELECT host, direction, comm, raddr, CASE WHEN direction = 'sent' THEN lport ELSE rport END AS port, reason,
    count(*) AS resets
FROM rows
WHERE tool = 'tcpreset' AND event = 'reset'
GROUP BY host, direction, comm, raddr, CASE WHEN direction = 'sent' THEN lport ELSE rport END, reason
ORDER BY resets DESC, host, direction, raddr, port
LIMIT 20;
