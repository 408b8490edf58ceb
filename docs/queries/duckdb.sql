-- Makes the table `rows` of recordings, plain or compressed, in DuckDB 1.1 or later. Name the files first:
--   SET VARIABLE files = ['web1.jsonl.gz', 'db.jsonl.gz'];
CREATE OR REPLACE TABLE rows AS
SELECT *, epoch_ns(CAST(ts AS TIMESTAMP_NS)) AS unix_ns
FROM read_json(getvariable('files'), format = 'newline_delimited', columns = {
    tool: 'VARCHAR', event: 'VARCHAR', ts: 'VARCHAR', host: 'VARCHAR', boot_id: 'VARCHAR', boot_ns: 'BIGINT',
    netns: 'BIGINT', cookie: 'BIGINT', laddr: 'VARCHAR', lport: 'INTEGER', raddr: 'VARCHAR', rport: 'INTEGER',
    pid: 'BIGINT', comm: 'VARCHAR', unit: 'VARCHAR', container: 'VARCHAR', container_name: 'VARCHAR',
    outcome: 'VARCHAR', error: 'VARCHAR', latency_us: 'BIGINT', syn_retrans: 'BIGINT',
    kind: 'VARCHAR', rto_us: 'BIGINT', direction: 'VARCHAR', reason: 'VARCHAR', "where": 'VARCHAR', hint: 'VARCHAR',
    close_reason: 'VARCHAR', duration_us: 'BIGINT', tx_bytes: 'BIGINT', rx_bytes: 'BIGINT', total_retrans: 'BIGINT',
    accept_queue: 'BIGINT', accept_queue_high: 'BIGINT', accept_queue_max: 'BIGINT', drops: 'BIGINT',
    oldest_wait_us: 'BIGINT', why: 'VARCHAR', why_us: 'BIGINT', lost: 'BIGINT', untracked: 'BIGINT',
    uncounted: 'BIGINT', skipped: 'BIGINT'
});
