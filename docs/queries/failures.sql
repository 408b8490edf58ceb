-- What cannot be reached, and from how many hosts? From all: the server. From one: that host, or its path.
SELECT raddr, rport, outcome, error, count(*) AS failures, count(DISTINCT host) AS hosts, min(ts) AS first,
    max(ts) AS last
FROM rows
WHERE tool = 'tcpconnect' AND event = 'connect' AND outcome <> 'established'
GROUP BY raddr, rport, outcome, error
ORDER BY failures DESC, raddr, rport
LIMIT 20;
