-- Those of one version neither hide nor replace those of another.
drop table snapshots;

create table snapshots_by_format (
    shard integer not null,
    org_id blob not null,
    format integer not null,
    stretch integer not null,
    version integer not null,
    position integer not null,
    last_hash blob not null,
    state blob not null,
    constraint snapshots_by_format_one_per_stretch primary key (shard, org_id, format, stretch)
) strict;
