-- The log: the only truth. Nothing in it is ever updated or deleted.
create table events (
    shard integer not null,
    position integer not null,
    org_id blob not null,
    org_version integer not null,
    event_id blob not null,
    kind text not null,
    schema_version integer not null,
    recorded_at integer not null,
    payload blob not null,
    hash blob not null,
    constraint events_one_per_position primary key (shard, position)
) strict;

create trigger events_are_never_updated before update on events
begin
    select raise(abort, 'events are never updated: append a correcting event instead');
end;

create trigger events_are_never_deleted before delete on events
begin
    select raise(abort, 'events are never deleted: the log is the only truth');
end;

create table log_heads (
    shard integer not null,
    next_position integer not null,
    last_hash blob not null,
    epoch integer not null,
    constraint log_heads_one_per_shard primary key (shard)
) strict;

insert into log_heads (shard, next_position, last_hash, epoch) values (0, 1, zeroblob(32), 0);

-- Personal data stands outside the log, so that it can be erased.
create table profiles (
    shard integer not null,
    subject_id text not null,
    name text not null,
    email text,
    constraint profiles_one_per_subject primary key (shard, subject_id)
) strict;
