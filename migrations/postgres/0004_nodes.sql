-- Which nodes are alive, and where the others reach them. Worth nothing after a crash, so it is not logged. Like the
-- facts of the system org it stands on shard 0.
create unlogged table nodes (
    shard integer not null,
    node_id uuid not null,
    address text not null,
    -- Microseconds, by the database's clock.
    seen_at bigint not null,
    constraint nodes_one_per_id primary key (shard, node_id)
);

-- What the nodes of this database know each other by: made with it, from the server's own strong randomness.
create table node_secrets (
    shard integer not null,
    secret text not null,
    constraint node_secrets_one primary key (shard)
);

insert into node_secrets (shard, secret)
values (0, replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''));

do $$
begin
    grant select, insert, update, delete on nodes to tollgate_app;
    grant select on node_secrets to tollgate_app;
exception
    when undefined_object or insufficient_privilege then
        raise warning 'tollgate_app was not granted the nodes';
end
$$;
