-- Where keys and reservations stand in the log, as rows that are written in the log's order (domain/views/runs.rs).
-- What the old tables held is folded again at the next start.
drop table commands;
drop table reservations;
delete from projections where view in ('commands', 'reservations');
delete from key_filters;

create table commands (
    shard integer not null,
    generation bigint not null,
    run bigint not null,
    block bigint not null,
    entries bytea not null,
    constraint commands_one_per_block primary key (shard, generation, run, block)
);

create table reservations (
    shard integer not null,
    generation bigint not null,
    run bigint not null,
    block bigint not null,
    entries bytea not null,
    constraint reservations_one_per_block primary key (shard, generation, run, block)
);

-- Hashes don't compress: the server need not try.
alter table commands alter column entries set storage external;
alter table reservations alter column entries set storage external;

do $$
begin
    grant select, insert, update, delete on commands, reservations to tollgate_app;
exception
    when insufficient_privilege or undefined_object then
        raise warning 'tollgate_app was not granted the indexes of keys and reservations';
end
$$;
