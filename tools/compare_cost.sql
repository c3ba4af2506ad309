-- name: compare_cost(executions)^
-- What two versions of a report cost, from EXPLAIN's output for each execution.
--
-- Returns      one row. verdict (text). report (text): a table, and changed nodes. tables (text): the
--              tables that the plans read, with line breaks between them

-- one row per execution
with executions as materialized (
    select
        explained.execution_no,
        explained.execution ->> 'mode' as mode,
        explained.execution ->> 'version' as version,
        explained.execution -> 'Plan' as plan,
        (explained.execution ->> 'Execution Time')::float8 as time_ms
    from jsonb_array_elements(:executions::jsonb) with ordinality as explained (execution, execution_no)
),

-- one row per node of each plan
nodes as materialized (
    select
        executions.execution_no,
        executions.mode,
        executions.version,
        found.node ->> 'Relation Name' as table_name,
        concat_ws(
            ' ',
            found.node ->> 'Strategy',
            found.node ->> 'Node Type',
            coalesce(found.node ->> 'Index Name', found.node ->> 'Relation Name', found.node ->> 'CTE Name')
        ) as description,
        (found.node ->> 'Actual Loops')::float8 * (
            (found.node ->> 'Actual Rows')::float8
            + coalesce((found.node ->> 'Rows Removed by Filter')::float8, 0)
            + coalesce((found.node ->> 'Rows Removed by Index Recheck')::float8, 0)
        ) as row_count
    from executions
    cross join
        jsonb_path_query(executions.plan, 'strict $.** ? (exists(@."Node Type"))') as found (node)
),

-- one row per execution that reads tables: the rows read, with those that a filter removed
table_reads as (
    select
        nodes.execution_no,
        sum(nodes.row_count) as rows_read
    from nodes
    where nodes.table_name is not null
    group by nodes.execution_no
),

-- one row per kind of plan and version
costs as (
    select
        executions.mode,
        executions.version,
        percentile_cont(0.5) within group (order by executions.time_ms) as median_ms,
        percentile_cont(0.95) within group (order by executions.time_ms) as p95_ms,
        avg(
            (executions.plan ->> 'Shared Hit Blocks')::float8
            + (executions.plan ->> 'Shared Read Blocks')::float8
        ) as buffers,
        avg(coalesce(table_reads.rows_read, 0)) as rows_read,
        avg(
            (executions.plan ->> 'Temp Read Blocks')::float8
            + (executions.plan ->> 'Temp Written Blocks')::float8
        ) as temp_blocks
    from executions
    left join table_reads on executions.execution_no = table_reads.execution_no
    group by executions.mode, executions.version
),

-- one row per kind of node that the new plans have more or less often
changed_nodes as (
    select
        nodes.mode,
        nodes.description,
        count(*) filter (where nodes.version = 'new')
        > count(*) filter (where nodes.version = 'old') as is_more
    from nodes
    group by nodes.mode, nodes.description
    having count(*) filter (where nodes.version = 'old') <> count(*) filter (where nodes.version = 'new')
),

-- one row per kind of plan
changes as (
    select
        modes.mode,
        concat(
            'nodes of ',
            modes.mode,
            ' plans: ',
            case
                when count(changed_nodes.mode) = 0 then 'the same'
                else
                    concat_ws(
                        '; ',
                        'fewer '
                        || string_agg(changed_nodes.description, ', ' order by changed_nodes.description)
                        filter (where not changed_nodes.is_more),
                        'more '
                        || string_agg(changed_nodes.description, ', ' order by changed_nodes.description)
                        filter (where changed_nodes.is_more)
                    )
            end
        ) as line
    from (
        values
        ('custom'),
        ('generic')
    ) as modes (mode)
    left join changed_nodes on modes.mode = changed_nodes.mode
    group by modes.mode
),

-- one row per line of the report
lines (line_no, mode, version, line) as (
    select
        1 as line_no,
        null as mode,
        null as version,
        concat(
            rpad('plans', 12),
            lpad('median, ms', 13),
            lpad('p95, ms', 13),
            lpad('buffers', 13),
            lpad('rows read', 14),
            lpad('temp. blocks', 15)
        ) as line
    union all
    select
        2 as line_no,
        costs.mode,
        costs.version,
        concat(
            rpad(costs.mode, 8),
            rpad(costs.version, 4),
            lpad(to_char(costs.median_ms, 'FM999,999,990.00'), 13),
            lpad(to_char(costs.p95_ms, 'FM999,999,990.00'), 13),
            lpad(to_char(costs.buffers, 'FM999,999,999,990'), 13),
            lpad(to_char(costs.rows_read, 'FM999,999,999,990'), 14),
            lpad(to_char(costs.temp_blocks, 'FM999,999,999,990'), 15)
        ) as line
    from costs
    union all
    select
        3 as line_no,
        changes.mode,
        null as version,
        changes.line
    from changes
)

select
    (
        select
            concat(
                case
                    -- smaller differences are noise
                    when
                        abs(old.median_ms - new.median_ms) < 0.1
                        or old.median_ms / new.median_ms between 0.8 and 1.25
                        then 'about as fast; '
                    when old.median_ms > new.median_ms
                        then to_char(old.median_ms / new.median_ms, 'FM999,990.0') || ' times as fast; '
                    else to_char(new.median_ms / old.median_ms, 'FM999,990.0') || ' times as slow; '
                end,
                to_char(new.buffers / greatest(old.buffers, 1), 'FM999,990.0'),
                ' times the buffers'
            )
        from costs as old
        cross join costs as new
        where
            old.mode = 'custom'
            and old.version = 'old'
            and new.mode = 'custom'
            and new.version = 'new'
    ) as verdict,
    (
        select string_agg(lines.line, E'\n' order by lines.line_no asc, lines.mode asc, lines.version desc)
        from lines
    ) as report,
    (
        select string_agg(distinct nodes.table_name, E'\n')
        from nodes
    ) as tables;
