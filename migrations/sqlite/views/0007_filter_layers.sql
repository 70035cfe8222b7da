-- A filter is saved in layers, of which only the last one changes: one row would outgrow what a row may be.
drop table key_filters;

create table key_filter_series (
    shard integer not null,
    -- Whose layers these are: each start parts keys anew.
    series blob not null,
    position integer not null,
    hash blob not null,
    first_layer integer not null,
    end_layer integer not null,
    constraint key_filter_series_one_per_shard primary key (shard)
) strict, without rowid;

create table key_filter_layers (
    shard integer not null,
    series blob not null,
    layer integer not null,
    bits blob not null,
    constraint key_filter_layers_one_per_number primary key (shard, series, layer)
) strict;
