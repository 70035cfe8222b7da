-- What a node needs and no more: the log can be read and appended to. Grant this role to the one that nodes log in
-- with. Where the database's owner may not make roles, an administrator makes it and runs these grants.
do $$
begin
    begin
        create role tollgate_app nologin;
    exception
        -- Another database of this server made it, perhaps in this moment.
        when duplicate_object or unique_violation then null;
    end;
    grant select, insert on events to tollgate_app;
    grant select, update on log_heads to tollgate_app;
    grant execute on function extend_events(bigint) to tollgate_app;
    grant select on _sqlx_migrations to tollgate_app;
    grant select, insert, update, delete on profiles, projections, org_events, commands, reservations, balances, lots,
        spend_hourly, snapshots, key_filters to tollgate_app;
exception
    when insufficient_privilege then
        raise warning 'this role may not create roles: tollgate_app was not made';
end
$$;

revoke execute on function extend_events(bigint) from public;
