-- A filter is saved in layers, of which only the last one changes: one row would outgrow what a row may be.
-- The table of before, `key_filters`, stays for nodes of the version before that still run.
create table key_filter_series (
    shard integer not null,
    -- Whose layers these are: two nodes part the same keys differently.
    series uuid not null,
    position bigint not null,
    hash bytea not null,
    first_layer bigint not null,
    end_layer bigint not null,
    constraint key_filter_series_one_per_shard primary key (shard)
);

create table key_filter_layers (
    shard integer not null,
    series uuid not null,
    layer bigint not null,
    -- Filters don't compress: the server need not try.
    bits bytea not null,
    constraint key_filter_layers_one_per_number primary key (shard, series, layer)
);
alter table key_filter_layers alter column bits set storage external;

do $$
begin
    grant select, insert, update, delete on key_filter_series, key_filter_layers to tollgate_app;
exception
    when insufficient_privilege or undefined_object then
        raise warning 'this role may not grant: tollgate_app can not save filters of keys';
end
$$;
