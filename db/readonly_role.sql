-- The role for the service, with no more rights than the reports need. Run it with psql, as the owner of the
-- tables with CREATEROLE or as a superuser. If the role exists, only the grants are applied:
--
--   psql "$ADMIN_URL" -v ON_ERROR_STOP=1 -f db/readonly_role.sql
--
-- It has no password. In psql, \password membership_benefits_api asks for one and sends only its hash.

do $$
begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'membership_benefits_api') then
        -- enough for eight workers, by default one per core. Each opens at most pool_size (4) +
        -- slow_reports_at_once (1) connections, and the check at the start opens one more: 8 x 5 + 1. Up to
        -- twice as many are open during a reload, or while a second instance takes over
        create role membership_benefits_api login connection limit 82;
        -- defaults of its sessions. A session can change them; only the missing grants prevent writes
        alter role membership_benefits_api set default_transaction_read_only = on;
        alter role membership_benefits_api set statement_timeout = '5s';
        alter role membership_benefits_api set timezone = 'UTC';
        -- the service leaves no transaction open. No idle_session_timeout: pooled connections are idle
        alter role membership_benefits_api set idle_in_transaction_session_timeout = '10s';
    end if;
    -- needed if CONNECT was revoked from PUBLIC
    execute format('grant connect on database %I to membership_benefits_api', current_database());
end
$$;

-- If you may not grant usage on the schema, PostgreSQL warns; PUBLIC usually has it
grant usage on schema public to membership_benefits_api;
grant select on venue, benefit, benefit_usage to membership_benefits_api;
-- no report reads a person's name
grant select (id) on person to membership_benefits_api;

-- PUBLIC, and so this role, may create temporary tables and, in databases created before PostgreSQL 15,
-- tables in the schema public. The read-only default blocks both, but a session can change it. These
-- statements revoke both from PUBLIC; ask the owner of the database first:
--
-- revoke create on schema public from public;
-- do $$ begin execute format('revoke temporary on database %I from public', current_database()); end $$;
