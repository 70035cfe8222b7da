-- The log: the only truth. Nothing in it is ever updated or deleted. Every key begins with the shard, so that the
-- tables can be distributed by it. Partitions bound the size of what is vacuumed, indexed and archived at a time.
create table events (
    shard integer not null,
    position bigint not null,
    org_id uuid not null,
    org_version bigint not null,
    event_id uuid not null,
    kind text not null,
    schema_version integer not null,
    recorded_at bigint not null,
    payload bytea not null,
    hash bytea not null,
    constraint events_one_per_position primary key (shard, position)
) partition by range (position);

create function events_are_never_changed() returns trigger
language plpgsql as $$
begin
    raise exception 'events are never updated or deleted: append a correcting event instead';
end
$$;

create trigger events_are_never_changed before update or delete on events
    for each row execute function events_are_never_changed();
create trigger events_are_never_truncated before truncate on events
    for each statement execute function events_are_never_changed();

-- Makes the partitions up to the one that holds a position, and returns the first position beyond them. A partition
-- is made apart and then attached, which stops no append. It runs with its owner's rights: nodes need none to create.
create function extend_events(to_position bigint) returns bigint
language plpgsql security definer set search_path from current as $$
declare
    size constant bigint := 16777216;
    ends bigint := 0;
    name text;
begin
    perform pg_advisory_xact_lock(hashtext('tollgate: partitions of events'));
    while ends <= to_position loop
        name := 'events_' || ends / size;
        if to_regclass(name) is null then
            execute format('create table %I (like events including defaults including constraints)', name);
            execute format(
                'create trigger events_are_never_truncated before truncate on %I '
                'for each statement execute function events_are_never_changed()', name);
            execute format(
                'alter table events attach partition %I for values from (%s) to (%s)', name, ends, ends + size);
        end if;
        ends := ends + size;
    end loop;
    return ends;
end
$$;

-- One row a shard, moved by every append: room in the page keeps its updates in place.
create table log_heads (
    shard integer not null,
    next_position bigint not null,
    last_hash bytea not null,
    epoch bigint not null,
    constraint log_heads_one_per_shard primary key (shard)
) with (fillfactor = 10);

-- Personal data stands outside the log, so that it can be erased.
create table profiles (
    shard integer not null,
    subject_id text not null,
    name text not null,
    email text,
    constraint profiles_one_per_subject primary key (shard, subject_id)
);
