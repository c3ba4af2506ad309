-- The role for the service, with no more rights than the reports need. Run it with psql, as the owner of the
-- tables with CREATEROLE or as a superuser. Run again, it only grants; limit and settings stay as they are:
--
--   psql "$ADMIN_URL" -v ON_ERROR_STOP=1 -f db/readonly_role.sql
--
-- It has no password. In psql, \password membership_benefits_api asks for one and sends only its hash.

do $$
begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'membership_benefits_api') then
        -- each worker (one per core) opens at most pool_size (4) and slow_reports_at_once (1) connections. The
        -- service opens one more when it starts, and twice as many while a new instance takes over. This is for
        -- eight cores; more cores or hosts need more
        create role membership_benefits_api login connection limit 82;
        -- defaults of its sessions. A session can change them: the grants are what keeps it from writing
        alter role membership_benefits_api set default_transaction_read_only = on;
        alter role membership_benefits_api set statement_timeout = '5s';
        alter role membership_benefits_api set timezone = 'UTC';
        -- the service leaves no transaction open; idle_session_timeout is not set, since idle sessions are its pool
        alter role membership_benefits_api set idle_in_transaction_session_timeout = '10s';
    end if;
    -- everybody may connect to a new database; where that was taken back, the role needs it
    execute format('grant connect on database %I to membership_benefits_api', current_database());
end
$$;

-- no report reads a person's name; usage of the schema is everybody's already where an admin cannot grant it,
-- which is then a warning
grant usage on schema public to membership_benefits_api;
grant select on venue, benefit, benefit_usage to membership_benefits_api;
grant select (id) on person to membership_benefits_api;

-- Two rights are everybody's, so this role has them too: temporary tables, and up to PostgreSQL 14 tables in
-- the schema public. The read-only default refuses both until a session switches it off. To take them away
-- for good, from all roles without a grant of their own, so ask the owners first:
--
-- revoke create on schema public from public;
-- do $$ begin execute format('revoke temporary on database %I from public', current_database()); end $$;
