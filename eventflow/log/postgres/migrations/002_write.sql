-- The one function that writes. A batch holds for all of its runs or not at all: where something is not as the writer
-- took it to be, it raises EF002, and the writer looks at what is and plans anew. PostgreSQL only.

alter table log alter column data set storage external;         -- compressed already, where that gains anything
alter table blobs alter column stored set storage external;
alter table snapshots alter column root set storage external;
alter table tip set (fillfactor = 10);
alter table heads set (fillfactor = 70);
alter table owners set (fillfactor = 50);
alter table writers set (fillfactor = 50);

create function stale(what text) returns void language plpgsql as $$
begin
    raise exception 'the store is not as the writer took it to be: %', what using errcode = 'EF002';
end $$;

create function write_batch(
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
begin
    perform pg_advisory_xact_lock(p_lock);
    update tip set position = position + coalesce(cardinality(e_data), 0), messages = messages + p_messages,
        changes = changes + 1
        returning position - coalesce(cardinality(e_data), 0), messages - p_messages, sweep into before, posted, sweeping;
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
        update heads h set version = g.version, digest = g.digest, epoch = g.epoch, owner = g.owner,
            status = g.status, waiting = g.waiting, updated = g.updated
        from unnest(h_id, h_key, h_was_version, h_was_epoch, h_was_owner, h_version, h_digest, h_epoch, h_owner,
                h_status, h_waiting, h_updated)
            as g (id, key, was_version, was_epoch, was_owner, version, digest, epoch, owner, status, waiting, updated)
        where h.run_id = g.id and h.run_key = g.key and h.epoch = g.was_epoch and h.owner = g.was_owner
            and not exists (select from log l where l.run_key = g.key and l.version = g.was_version + 1);
        get diagnostics many = row_count;
        if many <> cardinality(h_id) then perform stale('a head'); end if;
    end if;
    if n_id is not null then
        insert into heads as h
        select * from unnest(n_id, n_key, n_incarnation, n_version, n_digest, n_epoch, n_owner, n_status, n_waiting,
            n_updated, n_queue, n_priority)
        on conflict (run_id) do update set run_key = excluded.run_key, incarnation = excluded.incarnation,
            version = excluded.version, digest = excluded.digest, epoch = excluded.epoch, owner = excluded.owner,
            status = excluded.status, waiting = excluded.waiting, updated = excluded.updated,
            queue = excluded.queue, priority = excluded.priority
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
        insert into log
        select before + e.number, e.key, e.version, e.data
        from unnest(e_key, e_epoch, e_version, e_data) with ordinality as e (key, epoch, version, data, number)
        where (select h.epoch from heads h where h.run_key = e.key) = e.epoch;
        get diagnostics many = row_count;
        if many <> cardinality(e_data) then perform stale('an epoch'); end if;
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

-- The same for what nearly all batches are: events of runs that change in nothing else, and the blobs they refer to.
create function append_batch(
    p_lock bigint, p_writer bytea, p_batch bigint,
    e_key bytea[], e_epoch bigint[], e_version bigint[], e_data bytea[], b_digest bytea[], b_stored bytea[]
) returns table (position_before bigint, messages_before bigint) language plpgsql as $$
declare
    many bigint := cardinality(e_data);
    added bigint;
    before bigint;
    posted bigint;
    sweeping bigint;
begin
    perform pg_advisory_xact_lock(p_lock);
    update tip set position = position + many, changes = changes + 1
        returning position - many, messages, sweep into before, posted, sweeping;
    insert into log
    select before + e.number, e.key, e.version, e.data
    from unnest(e_key, e_epoch, e_version, e_data) with ordinality as e (key, epoch, version, data, number)
    where (select h.epoch from heads h where h.run_key = e.key) = e.epoch;
    get diagnostics added = row_count;
    if added <> many then perform stale('an epoch'); end if;
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
