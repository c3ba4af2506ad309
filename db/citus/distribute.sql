-- Distributes the tables and their rows over a Citus cluster. Run it once with psql on the coordinator, after
-- adding the nodes. It locks the tables:
--
--   psql "$ADMIN_URL" -v ON_ERROR_STOP=1 -f db/citus/distribute.sql
--
-- A benefit and its uses are on the same node; venues and people are on every node.

-- drop the foreign keys (created again below), and the primary key, which lacks the distribution column
do $$
declare
    dropped record;
begin
    for dropped in
        select
            pg_constraint.conrelid::regclass as table_name,
            pg_constraint.conname
        from pg_constraint
        where
            pg_constraint.conrelid in ('benefit'::regclass, 'benefit_usage'::regclass)
            and pg_constraint.contype = 'f'
            or pg_constraint.conrelid = 'benefit_usage'::regclass
            and pg_constraint.contype = 'p'
    loop
        execute format('alter table %s drop constraint %I', dropped.table_name, dropped.conname);
    end loop;
end
$$;

alter table benefit_usage add primary key ("benefitId", id);

select create_reference_table('venue');
select create_reference_table('person');
select create_distributed_table('benefit', 'id');
select create_distributed_table('benefit_usage', 'benefitId', colocate_with => 'benefit');

alter table benefit add foreign key ("venueId") references venue (id);
alter table benefit_usage add foreign key ("personId") references person (id);
alter table benefit_usage add foreign key ("benefitId") references benefit (id);
