-- Where keys and reservations stand in the log, as rows that are written in the log's order (domain/views/runs.rs).
-- What the old tables held is folded again at the next start.
drop table commands;
drop table reservations;
delete from projections where view in ('commands', 'reservations');
delete from key_filters;

create table commands (
    shard integer not null,
    generation integer not null,
    run integer not null,
    block integer not null,
    entries blob not null,
    constraint commands_one_per_block primary key (shard, generation, run, block)
) strict;

create table reservations (
    shard integer not null,
    generation integer not null,
    run integer not null,
    block integer not null,
    entries blob not null,
    constraint reservations_one_per_block primary key (shard, generation, run, block)
) strict;
