-- Rates that the nodes share. Worth nothing after a crash, so they are not logged: they are then full again. A row is
-- moved in place, about once in two seconds and node.
create unlogged table shared_rates (
    shard integer not null,
    -- A hash: no end user's name stands here.
    rate_id bytea not null,
    -- Microseconds, by the database's clock.
    full_at bigint not null,
    constraint shared_rates_one_per_id primary key (shard, rate_id)
) with (fillfactor = 50);

do $$
begin
    grant select, insert, update, delete on shared_rates to tollgate_app;
exception
    when insufficient_privilege or undefined_object then
        raise warning 'this role may not grant: tollgate_app shares no rates';
end
$$;
