-- What the units of experiments met in their arms: the sums over which intervals are reckoned.
create table arm_units (
    shard integer not null,
    generation bigint not null,
    arm text not null,
    unit text not null,
    requests bigint not null,
    failed bigint not null,
    fallbacks bigint not null,
    charged bigint not null,
    input_tokens bigint not null,
    output_tokens bigint not null,
    latency_micros bigint not null,
    judged bigint not null,
    judged_charged bigint not null,
    successes bigint not null,
    scored bigint not null,
    score_thousandths bigint not null,
    constraint arm_units_one_per_unit primary key (shard, generation, arm, unit)
);

-- Answers of an arm by how long they took, in classes of a quarter of a power of two.
create table arm_latencies (
    shard integer not null,
    generation bigint not null,
    arm text not null,
    class bigint not null,
    requests bigint not null,
    constraint arm_latencies_one_per_class primary key (shard, generation, arm, class)
);

do $$
begin
    grant select, insert, update, delete on arm_units, arm_latencies to tollgate_app;
exception
    when insufficient_privilege or undefined_object then
        raise warning 'this role may not grant: tollgate_app reads no experiments';
end
$$;
