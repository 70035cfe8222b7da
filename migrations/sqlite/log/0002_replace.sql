-- `insert or replace` deletes what stood there without firing the trigger on deletes.
create trigger events_are_never_replaced before insert on events
when exists (select 1 from events where shard = new.shard and position = new.position)
begin
    select raise(abort, 'events are never replaced: append a correcting event instead');
end;
