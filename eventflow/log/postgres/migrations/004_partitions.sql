-- The log in partitions by position, each a span of it. An old span can be put elsewhere, vacuumed and written anew alone, and
-- what was deleted in it goes back to the file system when it is. PostgreSQL only.
--
-- What one unique index said of the whole log, that a run has each version once, is said by three things now: each
-- partition's own index; `heads.last_from`, which is the span of the run's newest event, and where every new event of it
-- must go; and `heads.below`, above which its version must be. `add_events` is the only place where events are added.

alter table tip add column low bigint not null default 0;               -- the span in which the log ends
alter table tip add column high bigint not null default 0;
alter table tip add column room bigint not null default 0;              -- below which there are partitions
alter table tip add column ask bigint not null default 0;               -- from where on more are to be made
-- Positions of a span: some 400 MB, which is written anew in seconds. A long log has longer ones, see make_room.
alter table tip add column span bigint not null default 1000000 check (span > 0);

create table spans (
    low bigint primary key,                 -- also the name of its table, log_LOW
    high bigint not null unique,
    changed bigint not null default 0,      -- rows that became tombstones since the table was written
    kept bigint                             -- events that were left then; null: all its positions
);
alter table spans set (fillfactor = 50);

-- Where in the log the events of a run lie, so that a look at it need not ask each partition.
alter table heads add column first_from bigint not null default 0;      -- no event of the run is at a lower position
alter table heads add column last_from bigint not null default 0;       -- the span of its newest one, up to last_upto
alter table heads add column below bigint not null default 0;           -- its newest version that is before last_from
-- Of a run that is over (4 to 7: completed, failed, cancelled, timed out) the row is exact, unless events came after it.
alter table heads add column trails boolean not null default true;
alter table heads alter column trails set default false;

-- A log that is one table becomes the first span. `migrate` may have put a checked constraint there before, while others
-- wrote, so that it is not read now. Who could use the log still can, and only through the log itself.
do $$
declare
    last bigint := (select position from tip);
    upper bigint := (
        select substring(pg_get_constraintdef(oid) from '< ''?([0-9]+)')::bigint from pg_constraint
        where conrelid = 'log'::regclass and conname = 'log_upto' and convalidated
    );
    holder text;
    one record;
begin
    if upper is null or upper <= last then
        upper := (last / 1000000 + 1) * 1000000;
    end if;
    alter table log rename to log_0;
    alter index log_pkey rename to log_0_pkey;
    alter index log_by_run rename to log_0_by_run;
    create table log (like log_0 including defaults including storage, primary key (position)) partition by range (position);
    execute format('alter table log attach partition log_0 for values from (0) to (%s)', upper);
    alter table log_0 drop constraint if exists log_upto;
    insert into spans values (0, upper);
    update tip set high = upper, room = upper, ask = 0;
    -- Runs that are there already have their newest event in the first span.
    execute format('alter table heads add column last_upto bigint not null default %s', upper);

    select pg_get_userbyid(relowner) into holder from pg_class where oid = 'log_0'::regclass;
    for one in
        select case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end as who, a.privilege_type as what
        from pg_class c, aclexplode(c.relacl) a where c.oid = 'log_0'::regclass and a.grantee <> c.relowner
    loop
        execute format('grant %s on log to %s', one.what, one.who);
        execute format('revoke %s on log_0 from %s', one.what, one.who);
        if one.what = 'SELECT' then execute format('grant select on spans, standing to %s', one.who); end if;
    end loop;
    execute format('alter table log owner to %I', holder);
    execute format('alter table spans owner to %I', holder);
    execute format('alter view standing owner to %I', holder);
end $$;

-- What an update of the log changes is counted, whoever makes it.
create function note_changes() returns trigger language plpgsql security definer as $$
begin
    update spans s set changed = s.changed + c.many
    from (
        select p.low, count(*) as many from changes h join spans p on h.position >= p.low and h.position < p.high group by p.low
    ) as c (low, many) where s.low = c.low;
    return null;
end $$;
create trigger changes after update on log referencing new table as changes
    for each statement execute function note_changes();

-- Make the partitions that will be needed: one whole span more than the one in which the log ends, which is far ahead. Who
-- appends calls it, and owns no table; hence it runs as the owner. A failure is let be as long as there is room, and tried again.
create function make_room() returns void language plpgsql security definer set lock_timeout = '250ms' as $$
declare
    t record;
    size bigint;
    name text;
begin
    select * into t from tip for update;
    -- Never more than a few hundred partitions: a look at a run takes longer by some 2 us for each.
    size := greatest(t.span, t.position / 64);
    begin
        while t.room - size <= t.position loop
            name := 'log_' || t.room;
            execute format('create table %I (like log including defaults including storage, primary key (position))%s', name, (
                select format(' tablespace %I', s.spcname) from pg_class c join pg_tablespace s on s.oid = c.reltablespace
                where c.oid = 'log'::regclass
            ));
            execute format('create unique index %I on %I (run_key, version) where run_key is not null', name || '_by_run', name);
            execute format('alter table log attach partition %I for values from (%s) to (%s)', name, t.room, t.room + size);
            insert into spans values (t.room, t.room + size);
            t.room := t.room + size;
        end loop;
        update tip set room = t.room, ask = t.room - size;
    exception when others then
        if t.room <= t.position then raise; end if;
        raise warning 'no partition for the log could be made, there is room up to position %: %', t.room, sqlerrm;
        update tip set ask = least(room, position + greatest(size / 16, 1));
    end;
end $$;

-- The newest event of a run in one span. Planned once, and so that it is looked up: by its own figures the planner takes two
-- bounds that it does not know for a narrow range, and sorts what it finds there. Who calls names a bound that is one of a span.
create function newest(p_key bytea, p_low bigint, p_high bigint, out version bigint, out data bytea)
language plpgsql stable set enable_sort = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    select l.version, l.data into version, data from log l
        where l.run_key = p_key and l.position >= p_low and l.position < p_high order by l.version desc limit 1;
end $$;

create or replace view standing as
select h.run_id, h.run_key, h.incarnation, h.version, h.digest, h.epoch, h.owner, h.status, h.waiting, h.updated, h.queue,
    h.priority, l.version as newest, l.data
from heads h left join lateral (
    select n.version, n.data from newest(h.run_key, h.last_from, h.last_upto) n where h.trails or h.status not between 4 and 7
) l on true;

-- Events of a run, in order. Of one that is being deleted there is no head, and what is left of it may be anywhere.
create function events_of(p_key bytea, p_first bigint, p_last bigint) returns table ("position" bigint, data bytea)
language plpgsql stable set enable_bitmapscan = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    lower bigint;
    upper bigint;
begin
    select h.first_from, h.last_upto into lower, upper from heads h where h.run_key = p_key;
    lower := coalesce(lower, 0);
    upper := coalesce(upper, 9223372036854775807);
    return query select l.position, l.data from log l
        where l.run_key = p_key and l.version between p_first and p_last and l.position >= lower and l.position < upper
        order by l.version;
end $$;

-- Let the newest event of these runs be in this span from now on, and be looked for there.
create function move_places(p_keys bytea[], p_low bigint, p_high bigint) returns bytea[] language plpgsql as $$
declare
    moved bytea[];
begin
    with m as (
        update heads h set trails = true, last_from = p_low, last_upto = p_high,
            below = case h.last_from when p_low then h.below else greatest(
                h.below, (select n.version from newest(h.run_key, h.last_from, h.last_upto) n)
            ) end
        where h.run_key = any (p_keys) and (h.last_from <> p_low or (h.status between 4 and 7 and not h.trails))
        returning h.run_key
    ) select array_agg(run_key) into moved from m;
    return moved;
end $$;

-- Add events after a position, in the span [p_low, p_high) and those behind it. A run must be in the epoch that is named.
create function add_events(
    p_before bigint, p_low bigint, p_high bigint, e_key bytea[], e_epoch bigint[], e_version bigint[], e_data bytea[]
) returns void language plpgsql as $$
declare
    many bigint := cardinality(e_data);
    done bigint := 0;
    fits bigint;
    added bigint;
    more bigint;
    moved bytea[];
begin
    loop
        while p_before + done + 1 >= p_high loop
            select s.low, s.high into p_low, p_high from spans s where s.low = p_high;
            if not found then
                raise exception 'no partition for position %', p_before + done + 1 using errcode = '23514';
            end if;
            update tip set low = p_low, high = p_high;
        end loop;
        fits := least(many, p_high - 1 - p_before);
        insert into log
        select p_before + e.number, e.key, e.version, e.data
        from unnest(e_key, e_epoch, e_version, e_data) with ordinality as e (key, epoch, version, data, number)
        where e.number > done and e.number <= fits and (
            select h.epoch from heads h where h.run_key = e.key and h.last_from = p_low and h.below < e.version
                and (h.version >= e.version or h.trails or h.status not between 4 and 7)
        ) = e.epoch;
        get diagnostics added = row_count;
        if added < fits - done then     -- a run comes from another span, or was over, or somebody is wrong about one
            moved := move_places(e_key[done + 1 : fits], p_low, p_high);
            insert into log
            select p_before + e.number, e.key, e.version, e.data
            from unnest(e_key, e_epoch, e_version, e_data) with ordinality as e (key, epoch, version, data, number)
            where e.number > done and e.number <= fits and e.key = any (moved) and (
                select h.epoch from heads h where h.run_key = e.key and h.below < e.version
            ) = e.epoch;
            get diagnostics more = row_count;
            if added + more <> fits - done then perform stale('an epoch'); end if;
        end if;
        exit when fits = many;
        done := fits;
    end loop;
end $$;

create or replace function write_batch(
    p_lock bigint, p_writer bytea, p_batch bigint, p_messages bigint,
    -- events, in order: of which run, the epoch it must be in, version, bytes
    e_key bytea[], e_epoch bigint[], e_version bigint[], e_data bytea[],
    -- heads that change in more than version and digest: as they must be, as they will be
    h_id bytea[], h_key bytea[], h_was_version bigint[], h_was_epoch bigint[], h_was_owner bytea[],
    h_version bigint[], h_digest bytea[], h_epoch bigint[], h_owner bytea[], h_status bigint[], h_waiting bigint[],
    h_updated bigint[],
    -- runs that begin
    n_id bytea[], n_key bytea[], n_incarnation bigint[], n_version bigint[], n_digest bytea[], n_epoch bigint[],
    n_owner bytea[], n_status bigint[], n_waiting bigint[], n_updated bigint[], n_queue bytea[], n_priority bigint[],
    i_key bytea[], i_id bytea[], i_entry bytea[], i_workflow bytea[], i_parent bytea[], i_origin bigint[],
    t_tag bytea[], t_key bytea[],
    -- what must be so: runs that are there, owners that are gone, blobs that are there
    a_runs bytea[], a_gone bytea[], a_blobs bytea[],
    -- the rest
    b_digest bytea[], b_stored bytea[],
    d_key bytea[], d_version bigint[],
    v_key bytea[], v_version bigint[], v_by bigint[],
    k_key bytea[], k_message bigint[],
    m_key bytea[], m_version bigint[], m_kinds bigint[], m_time bigint[], m_label bytea[], m_size bigint[], m_digest bytea[],
    s_key bytea[], s_version bigint[], s_root bytea[],
    x_key bytea[], x_version bigint[], x_snapshot bigint[],
    o_key bytea[], o_ordinal bigint[], o_data bytea[]
) returns table (position_before bigint, messages_before bigint) language plpgsql as $$
#variable_conflict use_column
declare
    many bigint;
    before bigint;
    posted bigint;
    sweeping bigint;
    lower bigint;   -- the span in which the log ends
    upper bigint;
    asked bigint;
begin
    perform pg_advisory_xact_lock(p_lock);
    update tip set position = position + coalesce(cardinality(e_data), 0), messages = messages + p_messages,
        changes = changes + 1
        returning position - coalesce(cardinality(e_data), 0), messages - p_messages, sweep, low, high, ask
        into before, posted, sweeping, lower, upper, asked;
    if before + coalesce(cardinality(e_data), 0) >= asked then perform make_room(); end if;
    insert into writers as w values (p_writer, p_batch, before, posted, clock_timestamp())
        on conflict (writer) do update set batch = p_batch, position = before, messages = posted, seen = clock_timestamp();

    if a_gone is not null and exists (
        select from owners o where o.owner = any (a_gone) and o.lease_until > clock_timestamp()
    ) then perform stale('an owner'); end if;
    if a_runs is not null then
        select count(*) into many from unnest(a_runs) a (k) where exists (select from heads h where h.run_key = a.k);
        if many <> cardinality(a_runs) then perform stale('a run is gone'); end if;
    end if;
    if a_blobs is not null then
        select count(*) into many from unnest(a_blobs) a (k) 
            where exists (select from blobs b where b.digest = a.k and (sweeping = 0 or b.kept = sweeping));
        if many <> cardinality(a_blobs) then perform stale('a piece is missing'); end if;
    end if;

    if h_id is not null then
        perform move_places(h_key, lower, upper);
        update heads h set version = g.version, digest = g.digest, epoch = g.epoch, owner = g.owner,
            status = g.status, waiting = g.waiting, updated = g.updated, trails = false
        from unnest(h_id, h_key, h_was_version, h_was_epoch, h_was_owner, h_version, h_digest, h_epoch, h_owner,
                h_status, h_waiting, h_updated)
            as g (id, key, was_version, was_epoch, was_owner, version, digest, epoch, owner, status, waiting, updated)
        where h.run_id = g.id and h.run_key = g.key and h.epoch = g.was_epoch and h.owner = g.was_owner
            and h.below <= g.was_version and (g.version > g.was_version or not exists (  -- else its events say so
                select from newest(h.run_key, lower, upper) n where n.version > g.was_version
            ));
        get diagnostics many = row_count;
        if many <> cardinality(h_id) then perform stale('a head'); end if;
    end if;
    if n_id is not null then
        insert into heads as h
            (run_id, run_key, incarnation, version, digest, epoch, owner, status, waiting, updated, queue, priority,
            first_from, last_from, last_upto)
        select *, lower, lower, upper from unnest(n_id, n_key, n_incarnation, n_version, n_digest, n_epoch, n_owner,
            n_status, n_waiting, n_updated, n_queue, n_priority)
        on conflict (run_id) do update set run_key = excluded.run_key, incarnation = excluded.incarnation,
            version = excluded.version, digest = excluded.digest, epoch = excluded.epoch, owner = excluded.owner,
            status = excluded.status, waiting = excluded.waiting, updated = excluded.updated,
            queue = excluded.queue, priority = excluded.priority,
            first_from = lower, last_from = lower, last_upto = upper, below = 0, trails = false
            where h.run_key is null and h.incarnation < excluded.incarnation;
        get diagnostics many = row_count;
        if many <> cardinality(n_id) then perform stale('a run exists'); end if;
    end if;
    if i_key is not null then
        insert into info select * from unnest(i_key, i_id, i_entry, i_workflow, i_parent, i_origin);
    end if;
    if t_tag is not null then
        insert into tags select * from unnest(t_tag, t_key) on conflict do nothing;
    end if;

    if e_data is not null then
        perform add_events(before, lower, upper, e_key, e_epoch, e_version, e_data);
    end if;
    if b_digest is not null then
        insert into blobs as b select x.digest, x.stored, sweeping from unnest(b_digest, b_stored) as x (digest, stored)
            on conflict (digest) do update set kept = excluded.kept where sweeping > 0 and b.kept <> sweeping;
    end if;
    if d_key is not null then
        insert into bends select * from unnest(d_key, d_version) on conflict do nothing;
    end if;
    if k_key is not null then
        delete from inbox b using unnest(k_key, k_message) as k (key, message)
            where b.run_key = k.key and b.message = k.message;
        get diagnostics many = row_count;
        if many <> cardinality(k_key) then perform stale('a message'); end if;
    end if;
    if x_key is not null then
        delete from marks r using unnest(x_key, x_version) as x (key, version)
            where r.run_key = x.key and r.version = x.version;
        delete from snapshots r using unnest(x_key, x_version, x_snapshot) as x (key, version, snapshot)
            where r.run_key = x.key and r.version = x.version and x.snapshot = 1
            and not exists (select from info i where i.run_key = x.key and i.origin = x.version);
        delete from vouches r using unnest(x_key, x_version, x_snapshot) as x (key, version, snapshot)
            where r.run_key = x.key and r.version = x.version and x.snapshot = 1
            and not exists (select from info i where i.run_key = x.key and i.origin = x.version);
    end if;
    if s_key is not null then
        insert into snapshots as s select * from unnest(s_key, s_version, s_root)
            on conflict (run_key, version) do update set root = excluded.root;
    end if;
    if v_key is not null then
        insert into vouches as v select x.key, x.version, x.by_version
            from unnest(v_key, v_version, v_by) as x (key, version, by_version)
            on conflict (run_key, version) do update set by_version =
                case when excluded.by_version < 0 then v.by_version else excluded.by_version end;
    end if;
    if m_key is not null then
        insert into marks as m select * from unnest(m_key, m_version, m_kinds, m_time, m_label, m_size, m_digest)
            on conflict (run_key, version) do update set kinds = m.kinds | excluded.kinds,
                label = case when excluded.label = '' then m.label else excluded.label end,
                size = case when excluded.size = 0 then m.size else excluded.size end,
                digest = case when excluded.digest = '' then m.digest else excluded.digest end;
    end if;
    if o_key is not null then
        insert into inbox select o.key, posted + o.ordinal, o.data from unnest(o_key, o_ordinal, o_data) as o (key, ordinal, data);
    end if;
    return query select before, posted;
end $$;

create or replace function append_batch(
    p_lock bigint, p_writer bytea, p_batch bigint,
    e_key bytea[], e_epoch bigint[], e_version bigint[], e_data bytea[], b_digest bytea[], b_stored bytea[]
) returns table (position_before bigint, messages_before bigint) language plpgsql as $$
declare
    many bigint := cardinality(e_data);
    before bigint;
    posted bigint;
    sweeping bigint;
    lower bigint;
    upper bigint;
    asked bigint;
begin
    perform pg_advisory_xact_lock(p_lock);
    update tip set position = position + many, changes = changes + 1
        returning position - many, messages, sweep, low, high, ask into before, posted, sweeping, lower, upper, asked;
    if before + many >= asked then perform make_room(); end if;
    perform add_events(before, lower, upper, e_key, e_epoch, e_version, e_data);
    if b_digest is not null then
        insert into blobs as b select x.digest, x.stored, sweeping from unnest(b_digest, b_stored) as x (digest, stored)
            on conflict (digest) do update set kept = excluded.kept where sweeping > 0 and b.kept <> sweeping;
    end if;
    update writers set batch = p_batch, position = before, messages = posted, seen = clock_timestamp()
        where writer = p_writer;
    if not found then
        insert into writers values (p_writer, p_batch, before, posted, clock_timestamp());
    end if;
    return query select before, posted;
end $$;

-- Write whole spans, neighbours that lie before the one in which the log ends, anew as one table, and drop theirs: the files
-- are gone when this is committed. It is one transaction, so nothing is changed where it ends before. What it holds is
-- compared with what was changed meanwhile; all others wait only while the tables change places. No row can be lost by it, so
-- whoever may delete runs may call it.
create function rewrite_spans(p_low bigint, p_high bigint, out bytes_before bigint, out bytes_after bigint)
language plpgsql security definer set lock_timeout = '250ms' as $$
declare
    final text := 'log_' || p_low;
    fresh text := 'log_' || p_low || '_anew';
    noted bigint;
    now_ bigint;
    live bigint;
    tries bigint := 0;
    one record;
begin
    if not has_table_privilege(session_user, 'log', 'UPDATE') then
        raise exception 'permission denied for rewriting the log' using errcode = '42501';
    end if;
    -- 0x65667277 is this function's, beside which the table is named
    if not pg_try_advisory_xact_lock(1701212791, ('log'::regclass::oid::bigint - 2147483648)::int) then
        raise exception 'another session writes spans of this log anew' using errcode = '55P03';
    end if;
    if p_high - p_low is distinct from (select sum(high - low) from spans where low >= p_low and high <= p_high)
        or p_high > (select low from tip) then
        raise exception 'no whole spans that are over: % to %', p_low, p_high using errcode = '22023';
    end if;
    execute format('create table %I (like log including defaults including storage)%s', fresh, (
        select format(' tablespace %I', s.spcname) from pg_class c join pg_tablespace s on s.oid = c.reltablespace
        where c.oid = to_regclass(final)
    ));
    execute format('with held as (select sum(changed) as many from spans where low >= $1 and high <= $2),
        copied as (insert into %I select * from log where position >= $1 and position < $2 order by position)
        select many from held', fresh) into noted using p_low, p_high;
    execute format('alter table %I add constraint %I primary key (position)', fresh, fresh || '_pkey');
    execute format('create unique index %I on %I (run_key, version) where run_key is not null', fresh || '_by_run', fresh);
    execute format('alter table %I add constraint spans_bound check (position >= %s and position < %s)', fresh, p_low, p_high);
    execute format('analyze %I', fresh);
    execute format('select count(*) from %I where run_key is not null', fresh) into live;
    loop
        tries := tries + 1;
        begin
            lock table only log in access exclusive mode;
            select sum(changed) into now_ from spans where low >= p_low and high <= p_high;
            if now_ <> noted then
                -- in the end it is done while all wait, which may take seconds
                if tries < 20 then raise exception 'changed meanwhile' using errcode = 'EF002'; end if;
                select * into noted, live from catch_up(fresh, p_low, p_high);
            end if;
            select sum(pg_total_relation_size(to_regclass('log_' || low))) into bytes_before
                from spans where low >= p_low and high <= p_high;
            for one in select 'log_' || low as name from spans where low >= p_low and high <= p_high loop
                execute format('alter table log detach partition %I', one.name);
                execute format('drop table %I', one.name);
            end loop;
            execute format('alter table %I rename to %I', fresh, final);
            execute format('alter index %I rename to %I', fresh || '_pkey', final || '_pkey');
            execute format('alter index %I rename to %I', fresh || '_by_run', final || '_by_run');
            execute format('alter table log attach partition %I for values from (%s) to (%s)', final, p_low, p_high);
            execute format('alter table %I drop constraint spans_bound', final);
            delete from spans where low > p_low and high <= p_high;
            update spans set high = p_high, changed = 0, kept = live where low = p_low;
            exit;
        exception
            when lock_not_available then    -- somebody reads the log for long; let all others go first
                if tries >= 60 then raise; end if;
                perform pg_sleep(0.25);
            when sqlstate 'EF002' then
                select * into noted, live from catch_up(fresh, p_low, p_high);
        end;
    end loop;
    bytes_after := pg_total_relation_size(to_regclass(final));
end $$;

-- Bring a copy of spans up to what they are; how much was changed in them until then, and how many events they hold.
create function catch_up(p_copy text, p_low bigint, p_high bigint, out noted bigint, out live bigint) language plpgsql as $$
begin
    execute format('with held as (select sum(changed) as many from spans where low >= $1 and high <= $2),
        same as (update %I n set run_key = l.run_key, version = l.version, data = l.data from log l
            where l.position = n.position and l.position >= $1 and l.position < $2
            and (l.run_key, l.version, l.data) is distinct from (n.run_key, n.version, n.data))
        select many from held', p_copy) into noted using p_low, p_high;
    execute format('select count(*) from %I where run_key is not null', p_copy) into live;
end $$;

-- What runs as the owner finds its names in this schema alone, and belongs to whom the log belongs to.
do $$
declare
    name text;
    holder text := (select pg_get_userbyid(relowner) from pg_class where oid = 'log'::regclass);
begin
    foreach name in array array['note_changes()', 'make_room()', 'rewrite_spans(bigint, bigint)'] loop
        execute format('alter function %s set search_path = %I, pg_temp', name, current_schema());
        execute format('alter function %s owner to %I', name, holder);
    end loop;
end $$;
select make_room();
