-- An org's snapshots of before are kept, one for each stretch of its versions: a balance of the past begins at one.
drop table snapshots;

create table snapshots (
    shard integer not null,
    org_id uuid not null,
    stretch bigint not null,
    version bigint not null,
    position bigint not null,
    last_hash bytea not null,
    format integer not null,
    state bytea not null,
    constraint snapshots_one_per_stretch primary key (shard, org_id, stretch)
);

do $$
begin
    grant select, insert, update, delete on snapshots to tollgate_app;
exception
    when insufficient_privilege or undefined_object then
        raise warning 'this role may not grant: tollgate_app saves no snapshots';
end
$$;
