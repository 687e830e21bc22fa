const { Worker, isMainThread, parentPort } = require('worker_threads');
const { execFileSync } = require('child_process');
const fs = require('fs');
if (!isMainThread) { parentPort.on('message', (n) => { parentPort.postMessage(n * 2); parentPort.close(); }); }
else (async () => {
  console.log('sum', [1, 2, 3].reduce((a, b) => a + b));
  await new Promise((done) => setTimeout(done, 20)); console.log('timer');
  let ticks = 0;
  await new Promise((done) => { const t = setInterval(() => { if (++ticks === 3) { clearInterval(t); done(); } }, 2); });
  console.log('ticks', ticks);
  console.log('promises', await Promise.all([1, 2, 3].map(async (n) => n * n)));
  const worker = new Worker(__filename);
  const answer = new Promise((done) => worker.on('message', done));
  worker.postMessage(21);
  console.log('worker', await answer);
  fs.writeFileSync('/tmp/file', 'text'); console.log('file', await fs.promises.readFile('/tmp/file', 'utf8'));
  console.log('hot', (() => { let s = 0; for (let i = 0; i < 3e6; i++) s = (s + i * 7) % 1000003; return s; })());
  console.log('exec', execFileSync('/bin/echo', ['child']).toString().trim());
  let kept = []; for (let i = 0; i < 200; i++) { kept.push(new Array(10000).fill(i)); if (kept.length > 20) kept = []; }
  console.log('garbage', kept.length);
})();
