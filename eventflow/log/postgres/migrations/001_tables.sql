-- The tables of a store. Bytes travel as they are: log.data is an event as stored in any other log.
-- Plain SQL that other databases with PostgreSQL's wire protocol should take as well.

create table store (
    one smallint primary key default 1 check (one = 1),
    format bigint not null,
    store_id bytea not null,
    follows smallint not null default 0,    -- 1: a copy of another store, which nobody may drive until it is promoted
    system_id text not null default '',     -- of the server that was seen last, and its timeline
    timeline bigint not null default 0
);

-- The one row that every write changes: the last position and message, and how many writes there were.
create table tip (
    one smallint primary key default 1 check (one = 1),
    position bigint not null default 0,
    messages bigint not null default 0,
    changes bigint not null default 0,
    sweep bigint not null default 0,        -- the sweep of blobs that goes on, 0 if none does
    sweeps bigint not null default 0        -- how many there were
);
insert into tip default values;

create table log (
    position bigint primary key,
    run_key bytea,                          -- null: the event was deleted, data is its tombstone
    version bigint not null,
    data bytea not null
);
create unique index log_by_run on log (run_key, version);

-- A run's head as it was when its owner, epoch or status last changed; events after that tell the rest.
create table heads (
    run_id bytea primary key,
    run_key bytea unique,                   -- null: what is left of a deleted run
    incarnation bigint not null,
    version bigint not null,
    digest bytea not null,
    epoch bigint not null,
    owner bytea not null,
    status smallint not null,
    waiting smallint not null,
    updated bigint not null,
    queue bytea not null default '',        -- UTF-8
    priority bigint not null default 0
);
create index heads_by_status on heads (status, run_key) where run_key is not null;
-- The runs of queues: those that are free, in their order, and those that somebody has taken. 0 to 2: pending, running, waiting.
create index heads_queued on heads (queue, priority desc, run_key)
    where queue <> '' and status <= 2 and owner = '\x00000000000000000000000000000000' and run_key is not null;
create index heads_taken on heads (queue, owner)
    where queue <> '' and status <= 2 and owner <> '\x00000000000000000000000000000000' and run_key is not null;

create table info (
    run_key bytea primary key,
    run_id bytea not null,
    entry bytea not null,
    workflow bytea not null,
    parent_key bytea,
    origin bigint not null default 0
);
create index info_by_workflow on info (workflow, run_key);
create index info_by_parent on info (parent_key, run_key) where parent_key is not null;
create table tags (tag bytea not null, run_key bytea not null, primary key (tag, run_key));
create index tags_by_run on tags (run_key);

create table bends (run_key bytea not null, version bigint not null, primary key (run_key, version));
create table marks (
    run_key bytea not null,
    version bigint not null,
    kinds bigint not null,                  -- one bit a kind
    time bigint not null,
    label bytea not null,
    size bigint not null,
    digest bytea not null,
    primary key (run_key, version)
);
create table snapshots (run_key bytea not null, version bigint not null, root bytea not null, primary key (run_key, version));
create table vouches (run_key bytea not null, version bigint not null, by_version bigint not null, primary key (run_key, version));
create table blobs (digest bytea primary key, stored bytea not null, kept bigint not null default 0);
create table inbox (run_key bytea not null, message bigint not null, data bytea not null, primary key (run_key, message));

create table guards (
    run_key bytea not null,
    kind smallint not null,
    time bigint not null,
    actor bytea not null,
    why bytea not null,
    primary key (run_key, kind)
);
create table clearing (run_key bytea primary key, upto bigint not null);  -- what removals have left to tidy up
create table buckets (queue bytea primary key, tokens double precision not null, at bigint not null);
create table owners (owner bytea primary key, lease_until timestamptz not null, said bytea not null);
-- What each open log wrote last, so that a commit whose answer was lost can be told from one that never was.
create table writers (
    writer bytea primary key,
    batch bigint not null,
    position bigint not null,
    messages bigint not null,
    seen timestamptz not null
);
