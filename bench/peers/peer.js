// Drives a queue that has its client library on node, as bench/load drives the others: same options,
// same words on standard output, same figures. bench/run copies it to where npm has put the libraries.
//
//   peer.js --system graphile-worker|pg-boss --mode install|life
//           [--producers N] [--workers N] [--batch N] [--seconds N] [--warmup N]
//
// Producers and workers are processes of their own, for node has one thread: each producer process has
// all the producers, each worker process all the workers. The parent keeps them in step.
import { fork } from 'node:child_process'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import pg from 'pg'

const payload = { to: 'ada@example.org', template: 'welcome', retries: 3, note: 'about a hundred bytes' }

const { values } = parseArgs({
  options: {
    system: { type: 'string' },
    mode: { type: 'string', default: 'life' },
    role: { type: 'string', default: 'parent' },
    producers: { type: 'string', default: '1' },
    workers: { type: 'string', default: '1' },
    batch: { type: 'string', default: '1' },
    seconds: { type: 'string', default: '5' },
    warmup: { type: 'string', default: '0.5' },
  },
})
const number = (name) => Number(values[name])
const batch = number('batch')
const window = Math.max(1000, 100 * batch) // jobs under way, as in bench/load

// --- what the two systems call it ------------------------------------------------------------------

function pool(connections) {
  const made = new pg.Pool({ max: connections })
  made.on('error', fail)
  made.on('connect', (client) => client.on('error', fail))
  return made
}

const systems = {
  'pg-boss': {
    async open(connections) {
      const { PgBoss } = await import('pg-boss')
      const boss = new PgBoss({ host: process.env.PGHOST, port: Number(process.env.PGPORT), user: process.env.PGUSER,
        database: process.env.PGDATABASE, options: process.env.PGOPTIONS, max: connections,
        supervise: false, schedule: false, registerInstance: false })
      boss.on('error', fail)
      await boss.start()
      return boss
    },
    async install() {
      const boss = await this.open(1)
      await boss.createQueue('q')
      await boss.stop()
    },
    async producer(connections) {
      const boss = await this.open(connections)
      const jobs = Array.from({ length: batch }, () => ({ data: payload }))
      return { add: () => (batch > 1 ? boss.insert('q', jobs) : boss.send('q', payload)) }
    },
    // Two loops of fetch and complete are quicker than its work(), which polls every half a second.
    async worker(connections, claims) {
      const boss = await this.open(connections)
      const loop = async () => {
        while (!claims.over()) {
          const want = await claims.take()
          if (want === 0) continue
          const begin = performance.now()
          const jobs = await boss.fetch('q', { batchSize: want })
          const middle = performance.now()
          if (jobs.length < want) claims.giveBack(want - jobs.length)
          if (jobs.length === 0) {
            await sleep(1)
            continue
          }
          const answer = await boss.complete('q', jobs.map((job) => job.id))
          claims.completed(answer.affected ?? jobs.length, middle - begin, performance.now() - middle)
        }
      }
      return { run: () => Promise.all(Array.from({ length: connections }, loop)) }
    },
    open_jobs: "SELECT count(*) FROM pgboss.job WHERE name = 'q' AND state < 'completed'",
  },

  'graphile-worker': {
    async install() {
      const { runMigrations } = await import('graphile-worker')
      await runMigrations({ pgPool: pool(1) })
    },
    async producer(connections) {
      const { makeWorkerUtils } = await import('graphile-worker')
      const utils = await makeWorkerUtils({ pgPool: pool(connections) })
      const jobs = Array.from({ length: batch }, () => ({ identifier: 'job', payload }))
      return { add: () => (batch > 1 ? utils.addJobs(jobs) : utils.addJob('job', payload)) }
    },
    async worker(connections, claims) {
      const { run, Logger } = await import('graphile-worker')
      const batches = {
        concurrentJobs: 24,
        preset: { worker: { completeJobBatchDelay: 0, failJobBatchDelay: 0,
          localQueue: { size: 500, refetchDelay: { durationMs: 10, threshold: 100 } } } },
      }
      return {
        async run() {
          const runner = await run({
            pgPool: pool(connections + 2), concurrency: connections, noHandleSignals: true, pollInterval: 100,
            logger: new Logger(() => (level, message) => { if (level === 'error') fail(new Error(message)) }),
            ...(batch > 1 ? { preset: batches.preset, concurrency: batches.concurrentJobs } : {}),
            taskList: { job: () => claims.completed(1) },
          })
          while (!claims.over()) await sleep(5)
          await runner.stop() // what is batched up is told to the server
        },
      }
    },
    open_jobs: 'SELECT count(*) FROM graphile_worker._private_jobs',
  },
}

const system = systems[values.system]

function fail(error) {
  console.error(`${values.system}: ${error?.stack ?? error}`)
  process.exit(1)
}
process.on('uncaughtException', fail)
process.on('unhandledRejection', fail)

// --- a child: producers or workers -----------------------------------------------------------------

// The other side's count comes from the parent every few milliseconds, ours goes there. closing: the
// producers stop; closed: they have stopped, and no job is added any more.
const counts = { added: 0, completed: 0, closing: false, closed: false }
const samples = { enqueue: [], claim: [], complete: [] }

function report(own) {
  process.send({ counts: { [own]: counts[own] }, at: Date.now() })
}

async function child() {
  const produces = values.role === 'producer'
  const own = produces ? 'added' : 'completed'
  process.on('message', (message) => {
    for (const name of Object.keys(counts)) if (name !== own) counts[name] = message[name]
  })
  process.on('disconnect', () => process.exit(1))
  const started = new Promise((resolve) => process.once('message', resolve))

  let taken = 0
  const claims = {
    over: () => counts.closed && counts.completed >= counts.added,
    async take() { // a whole batch, or what is left
      while (!claims.over()) {
        const there = counts.added - taken
        const want = counts.closed ? Math.min(batch, there) : there >= batch ? batch : 0
        if (want > 0) {
          taken += want
          return want
        }
        await sleep(1)
      }
      return 0
    },
    giveBack: (jobs) => { taken -= jobs },
    completed(jobs, claim, complete) {
      counts.completed += jobs
      if (claim === undefined) return
      samples.claim.push(claim)
      samples.complete.push(complete)
    },
  }

  const clients = produces ? await system.producer(number('producers')) : await system.worker(number('workers'), claims)
  process.send({ ready: true })
  await started
  const reporter = setInterval(() => report(own), 3)

  let asked = 0
  const produce = async () => {
    while (!counts.closing) {
      if (asked + batch - counts.completed > window && number('workers') > 0) {
        await sleep(1)
        continue
      }
      asked += batch
      const begin = performance.now()
      await clients.add()
      samples.enqueue.push(performance.now() - begin)
      counts.added += batch
    }
  }
  if (produces) await Promise.all(Array.from({ length: number('producers') }, produce))
  else await clients.run()
  clearInterval(reporter)
  process.send({ counts: { [own]: counts[own] }, at: Date.now(), samples, done: true })
}

// --- the parent ------------------------------------------------------------------------------------

function percentiles(milliseconds) {
  const sorted = milliseconds.sort((a, b) => a - b)
  const at = (q) => (sorted.length ? sorted[Math.floor(q * (sorted.length - 1))] * 1000 : 0)
  return { calls: sorted.length, p50: at(0.5), p95: at(0.95), p99: at(0.99), max: at(1) }
}

async function parent() {
  const roles = [...(number('producers') > 0 ? ['producer'] : []), ...(number('workers') > 0 ? ['worker'] : [])]
  const state = { added: 0, completed: 0, closing: false, closed: false }
  const history = [] // [time, jobs]
  const own = number('workers') > 0 ? 'completed' : 'added'
  const gathered = []
  const children = roles.map((role) => fork(process.argv[1], [...process.argv.slice(2), '--role', role]))
  for (const process_ of children) process_.on('exit', (code) => { if (code) process.exit(1) })

  const all = (wanted, who = children) => Promise.all(who.map((one) => new Promise((resolve) => {
    one.on('message', (message) => { if (message[wanted]) resolve() })
  })))
  const ready = all('ready')
  const produced = all('done', children.filter((_, i) => roles[i] === 'producer'))
  const done = all('done')
  for (const one of children) {
    one.on('message', (message) => {
      if (!message.counts) return
      Object.assign(state, message.counts)
      if (own in message.counts) history.push([message.at, state[own]])
      if (message.samples) gathered.push(message.samples)
    })
  }
  await ready
  const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]()
  console.log('ready')
  await lines.next()

  const start = Date.now()
  const warmup = number('warmup') * 1000, seconds = number('seconds')
  const tell = () => children.forEach((one) => one.connected && one.send(state))
  const teller = setInterval(tell, 3)
  tell()
  await sleep(warmup + seconds * 1000)
  state.closing = true
  await produced
  state.closed = true
  await done
  clearInterval(teller)

  const count = (time) => history.findLast(([at]) => at <= time)?.[1] ?? 0
  const from = start + warmup
  const rate = (count(from + seconds * 1000) - count(from)) / seconds
  const client = new pg.Client()
  await client.connect()
  const left = Number((await client.query(system.open_jobs)).rows[0].count)
  await client.end()
  const expected = number('workers') > 0 ? 0 : state.added
  const wrong = left !== expected || (number('workers') > 0 && state.completed !== state.added)
  if (wrong) console.error(`${values.system}: of ${state.added} jobs ${state.completed} are completed, ${left} are left`)

  const latency = {}
  for (const name of ['enqueue', 'claim', 'complete']) {
    const merged = gathered.flatMap((samples) => samples[name])
    if (merged.length) latency[name] = percentiles(merged)
  }
  console.log(JSON.stringify({ system: values.system, enqueued: state.added, completed: state.completed,
    jobs: state[own], seconds, rate, left, latency }))
  await lines.next()
  process.exit(wrong ? 1 : 0)
}

if (values.mode === 'install') await system.install().then(() => process.exit(0))
else if (values.role === 'parent') await parent()
else await child()
