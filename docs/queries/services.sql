-- Which container, unit or process has trouble?
SELECT host, coalesce(container_name, substr(container, 1, 12), unit, comm, '-') AS service,
    sum(CASE WHEN tool = 'tcpconnect' AND outcome <> 'established' THEN 1 ELSE 0 END) AS failed,
    sum(CASE WHEN tool = 'tcpreset' THEN 1 ELSE 0 END) AS resets,
    sum(CASE WHEN tool = 'tcpretrans' THEN 1 ELSE 0 END) AS retransmits,
    sum(CASE WHEN tool = 'tcpdrop' THEN 1 ELSE 0 END) AS drops
FROM rows
WHERE event IN ('reset', 'retransmit', 'drop') OR event = 'connect' AND outcome <> 'established'
GROUP BY host, coalesce(container_name, substr(container, 1, 12), unit, comm, '-')
ORDER BY count(*) DESC, host, service
LIMIT 20;
