-- Whose accept queue overflows? `drops` is the kernel's own counter of a listener, since it listens.
SELECT host, comm, laddr, lport, max(accept_queue_high) AS highest, max(accept_queue_max) AS accept_queue_max,
    max(drops) AS drops, round(max(oldest_wait_us) / 1000.0, 1) AS longest_wait_ms
FROM rows
WHERE tool = 'tcpaccept' AND event = 'listener'
GROUP BY host, netns, comm, laddr, lport
HAVING max(drops) > 0 OR max(accept_queue) > max(accept_queue_max)
ORDER BY max(drops) DESC, host, lport
LIMIT 20;
