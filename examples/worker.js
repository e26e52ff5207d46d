#!/usr/bin/env node
// A worker in JavaScript, with pg (node-postgres).
//
//   worker.js QUEUE STAGE COMMAND [ARGUMENT ...]
//
// Takes one job after the other from a stage of a queue and runs COMMAND for it: the job is its stdin
// (JSON: id, payload, attempt, ...), its stdout is the result (JSON or nothing). Exit status 0 completes
// the job, any other fails it, with stderr as the error. PGHOST, PGDATABASE, ... say where the server is.
//
// It has a pool of connections and any of them may serve a call, so a job is held by a time lease,
// extended by heartbeats. SIGTERM gives the present job back and ends the worker.
'use strict'
const { spawn } = require('node:child_process')
const { once } = require('node:events')
const { text } = require('node:stream/consumers')
const { setTimeout: sleep } = require('node:timers/promises')
const { Pool } = require('pg')

const [queue, stage, command, ...args] = process.argv.slice(2)
if (!command) {
  console.error('worker.js QUEUE STAGE COMMAND [ARGUMENT ...]')
  process.exit(2)
}
const name = process.env.PGAPPNAME ?? `worker.js-${process.pid}` // pgjobs shows it as the worker's name
const log = (...words) => console.log(new Date().toTimeString().slice(0, 8), `${name}:`, ...words)

// Two connections: the heartbeat must not queue up behind a long statement of the work itself.
const pool = new Pool({ max: 2, application_name: name })
pool.on('error', () => {}) // a connection broke: the pool makes a new one, and who was using it
pool.on('connect', (client) => client.on('error', () => {})) // hears of it from the query

let stopping = false
let waiting = null // the connection that waits for a job
let child = null // the command that runs
const stopped = once(process, 'SIGTERM').then(() => {
  stopping = true
  child?.kill()
  // Told to, the server stops waiting at once; that nobody is there any more it may see late.
  if (waiting) return pool.query('SELECT pg_cancel_backend($1)', [waiting.processID]).catch(() => {})
})
const pauseFor = (seconds) => Promise.race([sleep(seconds * 1000), stopped])

// The server does the waiting. Returns undefined if there was nothing, or somebody else was quicker.
async function nextJob() {
  waiting = await pool.connect()
  const answer = await waiting.query("CALL pgjobs.wait($1, '30 seconds', stage => $2)", [queue, stage])
    .finally(() => { waiting.release(); waiting = null })
  if (stopping || !answer.rows[0].ready) return undefined
  // beat: a third of the lease, in milliseconds by the server's clock.
  const claimed = await pool.query(
    `SELECT to_jsonb(j) AS job,
            extract(epoch FROM j.lease_expires_at - clock_timestamp())::float8 * 1000 / 3 AS beat
     FROM pgjobs.claim($1, stage => $2) AS j`, [queue, stage])
  return claimed.rows[0]
}

// Says something about a job until the server has answered. After a lost connection nobody knows
// whether it had arrived; a complete that had is accepted again.
async function tell(sql, values) {
  for (let pause = 1; ; pause = Math.min(2 * pause, 30)) {
    try {
      return await pool.query(sql, values)
    } catch (error) {
      if (error.severity === 'ERROR' || stopping) throw error // the answer is no
      log(`next try in ${pause} s: ${error.message}`)
      await pauseFor(pause)
    }
  }
}

async function work({ job, beat }) {
  const mine = [job.id, job.token]
  let lost = null
  const heartbeat = setInterval(() => {
    pool.query('SELECT pgjobs.extend($1, $2)', mine).catch((error) => {
      if (error.code !== 'PJ001') return // a missed beat; the next one is soon enough
      lost = error
      child?.kill()
    })
  }, beat)
  try {
    if (stopping) return await tell('SELECT pgjobs.release($1, $2)', mine)
    child = spawn(command, args)
    child.stdin.on('error', () => {}) // a command need not read it
    child.stdin.end(JSON.stringify(job))
    const output = Promise.all([text(child.stdout), text(child.stderr)])
    output.catch(() => {}) // of a command that cannot be started; `once` throws then
    const [status] = await once(child, 'exit')
    if (lost) throw lost
    if (stopping) return await tell('SELECT pgjobs.release($1, $2)', mine)
    const [out, err] = await output
    if (status === 0) {
      const result = out.trim() ? JSON.stringify(JSON.parse(out)) : null
      await tell('SELECT pgjobs.complete($1, $2, $3)', [...mine, result])
    } else {
      await tell('SELECT pgjobs.fail($1, $2, $3)', [...mine, `exit status ${status}: ${err.slice(-2000)}`])
    }
    log(`job ${job.id}: exit status ${status}`)
  } catch (error) {
    // The fence: the job is somebody else's by now, or nobody's, and nothing of ours has counted.
    if (error.code === 'PJ001') return log(`job ${job.id}, refused: PJ001: ${error.message}`)
    await tell('SELECT pgjobs.fail($1, $2, $3)', [...mine, String(error)]).catch((no) => log(no.message))
  } finally {
    clearInterval(heartbeat)
    child = null
  }
}

async function main() {
  let pause = 1
  while (!stopping) {
    try {
      const next = await nextJob()
      pause = 1
      if (next) await work(next)
    } catch (error) {
      if (stopping) break
      log(`next try in ${pause} s: ${error.message}`)
      await pauseFor(pause)
      pause = Math.min(2 * pause, 30)
    }
  }
  process.exit() // the pipes of a command that was killed may still be open
}
main()
