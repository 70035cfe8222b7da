-- Nodes of two versions that read different snapshots run side by side: neither hides or replaces the other's.
-- The table of before, `snapshots`, stays for nodes of the version before that still run.
create table snapshots_by_format (
    shard integer not null,
    org_id uuid not null,
    format integer not null,
    stretch bigint not null,
    version bigint not null,
    position bigint not null,
    last_hash bytea not null,
    state bytea not null,
    constraint snapshots_by_format_one_per_stretch primary key (shard, org_id, format, stretch)
);

do $$
begin
    grant select, insert, update, delete on snapshots_by_format to tollgate_app;
exception
    when insufficient_privilege or undefined_object then
        raise warning 'this role may not grant: tollgate_app saves no snapshots';
end
$$;
