-- Do the records tell all? What the commands lost, missed or did not count, by their own account.
SELECT host, tool, sum(lost) AS lost, sum(untracked) AS untracked, sum(uncounted) AS uncounted,
    sum(skipped) AS skipped_at_most
FROM rows
WHERE event = 'summary' AND lost + untracked + uncounted + skipped > 0
GROUP BY host, tool
ORDER BY host, tool;
