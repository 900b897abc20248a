// Stalls of Node.js, each with the truth about it: `stalls.cjs CASE FOLDER`. The protocol is that of stalls.py. A case prepares its
// stall up to its `yield`.
'use strict'

const { execFileSync, execSync, spawn } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')

const HOLD = 1500
const [name, folder] = process.argv.slice(2)

const now = () => process.hrtime.bigint()
const say = (line) => fs.writeSync(1, line + '\n')
let used

function begin (truth = {}) {
  used = process.cpuUsage()
  // A number of nanoseconds is too long for JSON.stringify's numbers.
  say(`{"began":${now()},${JSON.stringify({ native: name, ...truth }).slice(1)}`)
}

function end () {
  const { user, system } = process.cpuUsage(used)
  const ms = (user + system) / 1000
  say(`{"ended":${now()},"thread_cpu_ms":${ms},"process_cpu_ms":${ms}}`)
}

const cases = {
  * node_busy () {
    yield
    begin()
    let number = 0
    const end = performance.now() + HOLD
    while (performance.now() < end) number = (number * 31 + 7) % 1000003
    return number
  },

  // Node waits for the child's end with a loop of its own, made for this one call.
  * node_exec_sync () {
    yield
    begin({ holder_is_only_child: true, child_is_only_child: true })
    execSync(`exec sleep ${HOLD / 1000}`)
  },

  * node_read_fifo () {
    const fifo = path.join(folder, 'fifo')
    execFileSync('mkfifo', [fifo])
    const writer = spawn('sh', ['-c', `exec sleep ${HOLD / 1000} > '${fifo}'`], { stdio: 'ignore' })
    const file = fs.openSync(fifo, 'r')
    yield
    begin({ holder: writer.pid, file: fifo })
    fs.readSync(file, Buffer.alloc(1))
  },

  * node_atomics () {
    const cell = new Int32Array(new SharedArrayBuffer(4))
    yield
    begin()
    Atomics.wait(cell, 0, 0, HOLD)
  },

  * node_read_slow () {
    const file = path.join(folder, 'slow/file')
    const fd = fs.openSync(file, 'r')
    yield
    begin({ file })
    fs.readSync(fd, Buffer.alloc(16))
  }
}

setInterval(() => {}, 20)
process.stdin.on('data', () => {
  const steps = cases[name]()
  steps.next()
  // What a case prepares is not part of the iteration that stalls.
  setTimeout(() => {
    steps.next()
    end()
  }, 100)
})
process.stdin.on('end', () => process.exit(0))
say(JSON.stringify({ ready: true, pid: process.pid }))
