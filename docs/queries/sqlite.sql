-- Makes the table `rows` of recordings that come on standard input, in SQLite 3.38 or later:
--   zcat -f web1.jsonl.gz db.jsonl.gz | sqlite3 tcp.db '.read sqlite.sql'
CREATE TEMP TABLE lines (line TEXT);
.mode ascii
.separator "\037" "\n"
.import /dev/stdin lines
DROP TABLE IF EXISTS rows;
CREATE TABLE rows AS
SELECT line ->> 'tool' AS tool, line ->> 'event' AS event, line ->> 'ts' AS ts, line ->> 'host' AS host,
    line ->> 'boot_id' AS boot_id, line ->> 'boot_ns' AS boot_ns,
    line ->> 'netns' AS netns, line ->> 'cookie' AS cookie, line ->> 'laddr' AS laddr, line ->> 'lport' AS lport,
    line ->> 'raddr' AS raddr, line ->> 'rport' AS rport, line ->> 'pid' AS pid, line ->> 'comm' AS comm,
    line ->> 'unit' AS unit, line ->> 'container' AS container, line ->> 'container_name' AS container_name,
    line ->> 'outcome' AS outcome, line ->> 'error' AS error, line ->> 'latency_us' AS latency_us,
    line ->> 'syn_retrans' AS syn_retrans, line ->> 'kind' AS kind, line ->> 'rto_us' AS rto_us,
    line ->> 'direction' AS direction, line ->> 'reason' AS reason, line ->> 'where' AS "where",
    line ->> 'hint' AS hint, line ->> 'close_reason' AS close_reason, line ->> 'duration_us' AS duration_us,
    line ->> 'tx_bytes' AS tx_bytes, line ->> 'rx_bytes' AS rx_bytes, line ->> 'total_retrans' AS total_retrans,
    line ->> 'accept_queue' AS accept_queue, line ->> 'accept_queue_high' AS accept_queue_high,
    line ->> 'accept_queue_max' AS accept_queue_max, line ->> 'drops' AS drops,
    line ->> 'oldest_wait_us' AS oldest_wait_us, line ->> 'why' AS why, line ->> 'why_us' AS why_us,
    line ->> 'lost' AS lost, line ->> 'untracked' AS untracked, line ->> 'uncounted' AS uncounted,
    line ->> 'skipped' AS skipped,
    unixepoch(substr(line ->> 'ts', 1, 19)) * 1000000000 + CAST(substr(line ->> 'ts', 21, 9) AS INTEGER) AS unix_ns
FROM lines;
.mode column
