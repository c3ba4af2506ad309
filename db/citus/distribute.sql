-- Spreads the tables over the nodes of a Citus cluster, with the rows that they have. Run it once, with psql
-- on the coordinator, when the nodes have been added; the tables are locked meanwhile:
--
--   psql "$ADMIN_URL" -v ON_ERROR_STOP=1 -f db/citus/distribute.sql
--
-- A benefit and its uses are on one node, venues and people on every node.

-- the foreign keys, until both their ends are spread, and the primary key without the distribution column
do $$
declare
    condemned record;
begin
    for condemned in
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
        execute format('alter table %s drop constraint %I', condemned.table_name, condemned.conname);
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
