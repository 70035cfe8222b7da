-- Partitions that were archived stay away: new ones are made behind the last that is attached, never where one was dropped.
-- An empty one in its place would keep it from being attached again.
create or replace function extend_events(to_position bigint) returns bigint
language plpgsql security definer set search_path from current as $$
declare
    size constant bigint := 16777216;
    ends bigint;
    name text;
begin
    perform pg_advisory_xact_lock(hashtext('tollgate: partitions of events'));
    select coalesce(max(substring(pg_get_expr(part.relpartbound, part.oid) from 'TO \(''?(\d+)')::bigint), 0) into ends
    from pg_inherits join pg_class part on part.oid = inhrelid
    where inhparent = 'events'::regclass;
    while ends <= to_position loop
        name := 'events_' || ends / size;
        execute format('create table %I (like events including defaults including constraints)', name);
        execute format(
            'create trigger events_are_never_truncated before truncate on %I '
            'for each statement execute function events_are_never_changed()', name);
        execute format(
            'alter table events attach partition %I for values from (%s) to (%s)', name, ends, ends + size);
        ends := ends + size;
    end loop;
    return ends;
end
$$;
