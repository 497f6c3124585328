"""The worker: a light supervisor that owns the connection, and a child process for each slot that runs tasks.

======================= ====================================================================================
`nbmr.worker.worker`    the supervisor: its slots, cancellations, draining
`nbmr.worker.slot`      one slot: a task from its delivery to its acknowledgement
`nbmr.worker.guard`     a child process under guard: watched, stopped, and replaced when it dies
`nbmr.worker.process`   one child process as the supervisor sees it: start, interrupt, kill
`nbmr.worker.child`     what runs in the child process
`nbmr.worker.pipe`      how the two talk
`nbmr.worker.oom`       whether the system's out-of-memory killer was at work
`nbmr.worker.cleaner`   removes what a killed worker can't
`nbmr.worker.blobs`     large payloads, read once and kept
`nbmr.worker.pool`      several workers on this machine, replaced when they die
======================= ====================================================================================

Nothing here but `nbmr.worker.child` imports pandas.
"""
