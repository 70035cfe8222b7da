-- Folds of the log: caches that can be emptied and folded again. Rows of several generations of a view stand
-- side by side, so that one is rebuilt while readers use another.
create table projections (
    shard integer not null,
    view text not null,
    generation bigint not null,
    -- Events up to here are folded; the hash is that of the event here.
    position bigint not null,
    hash bytea not null,
    live boolean not null,
    constraint projections_one_per_generation primary key (shard, view, generation)
);

create table org_events (
    shard integer not null,
    generation bigint not null,
    org_id uuid not null,
    block bigint not null,
    first_version bigint not null,
    offsets bytea not null,
    constraint org_events_one_per_block primary key (shard, generation, org_id, block)
);

create index org_events_by_version on org_events (shard, generation, org_id, first_version);

create table commands (
    shard integer not null,
    generation bigint not null,
    key_hash bytea not null,
    position bigint not null,
    constraint commands_one_per_key primary key (shard, generation, key_hash)
);

create table reservations (
    shard integer not null,
    generation bigint not null,
    org_id uuid not null,
    local_id uuid not null,
    positions bytea not null,
    constraint reservations_one_per_id primary key (shard, generation, org_id, local_id)
);

create table balances (
    shard integer not null,
    generation bigint not null,
    org_id uuid not null,
    version bigint not null,
    position bigint not null,
    recorded_at bigint not null,
    available bigint not null,
    held bigint not null,
    granted bigint not null,
    consumed bigint not null,
    expired bigint not null,
    refunded bigint not null,
    debt bigint not null,
    overdraft_limit bigint not null,
    constraint balances_one_per_org primary key (shard, generation, org_id)
);

create table lots (
    shard integer not null,
    generation bigint not null,
    org_id uuid not null,
    lot_id uuid not null,
    granted bigint not null,
    consumed bigint not null,
    expired bigint not null,
    refunded bigint not null,
    priority bigint not null,
    expires_at bigint,
    created_at bigint not null,
    paid_minor bigint not null,
    currency text,
    recognised_minor bigint not null,
    refunded_minor bigint not null,
    constraint lots_one_per_id primary key (shard, generation, org_id, lot_id)
);

create table spend_hourly (
    shard integer not null,
    generation bigint not null,
    org_id uuid not null,
    hour bigint not null,
    project text not null,
    key text not null,
    end_user text not null,
    model text not null,
    provider text not null,
    route text not null,
    arm text not null,
    labels text not null,
    requests bigint not null,
    charged bigint not null,
    input_tokens bigint not null,
    cache_read_tokens bigint not null,
    cache_write_5m_tokens bigint not null,
    cache_write_1h_tokens bigint not null,
    output_tokens bigint not null,
    reasoning_tokens bigint not null,
    audio_input_tokens bigint not null,
    cached_audio_tokens bigint not null,
    audio_output_tokens bigint not null,
    image_tokens bigint not null,
    video_tokens bigint not null,
    web_searches bigint not null,
    images bigint not null,
    seconds bigint not null,
    constraint spend_hourly_one_per_group primary key
        (shard, generation, org_id, hour, project, key, end_user, model, provider, route, arm, labels)
);

-- Folded accounts, so that one need not be folded from its first event.
create table snapshots (
    shard integer not null,
    org_id uuid not null,
    version bigint not null,
    position bigint not null,
    last_hash bytea not null,
    format integer not null,
    state bytea not null,
    constraint snapshots_one_per_org primary key (shard, org_id)
);

-- Which idempotency keys were ever bound, so that a new one needs no look-up.
create table key_filters (
    shard integer not null,
    position bigint not null,
    state bytea not null,
    constraint key_filters_one_per_shard primary key (shard)
);
