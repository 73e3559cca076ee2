-- Where each run stands: its head as it was written last, and its newest event, which is newer than that or the same.
-- Plain SQL, as 001.

create view standing as
select h.run_id, h.run_key, h.incarnation, h.version, h.digest, h.epoch, h.owner, h.status, h.waiting, h.updated, h.queue,
    h.priority, l.version as newest, l.data
from heads h left join lateral (
    select l.version, l.data from log l where l.run_key = h.run_key order by l.version desc limit 1
) l on true;
