// Drives Chromium through OHIF and takes the pictures of one job file; see __main__.py, which writes it.
//
//   node browse.mjs JOB.json
//
// It looks and acts as a person at the screen does: reads the texts of the viewports, turns the wheel, takes pictures.

import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';

const job = JSON.parse(await readFile(process.argv[2], 'utf8'));
const puppeteer = createRequire(path.join(job.packages, '/'))('puppeteer-core');

const FLAGS = [
  '--no-sandbox', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync', '--hide-scrollbars',
  // Software rendering, so that the pictures need no graphics card.
  '--use-gl=angle', '--use-angle=swiftshader', '--enable-unsafe-swiftshader', '--ignore-gpu-blocklist',
];
const PANE = '[data-cy="viewport-pane"]';
// The first of the two buttons "list" and "thumbnails" above the series.
const LIST_BUTTON = 'button[role="radio"]';
const PAUSE_MS = 1500;

const pause = ms => new Promise(resolve => setTimeout(resolve, ms));

async function paneTexts(page) {
  return page.$$eval(PANE, panes => panes.map(pane => pane.innerText.replace(/\s*\n\s*/g, ' | ')));
}

/** "14 (15/28)" out of the texts of a viewport: instance number, place and length of the stack. */
const sliceOf = text => /I: ?(\d+ \(\d+\/\d+\))/.exec(text)?.[1];

async function until(what, condition) {
  const end = Date.now() + job.timeoutS * 1000;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`never seen in ${job.timeoutS} s: ${what}`);
    await pause(500);
  }
}

/** Wait until nothing changes on the screen any more: two pictures in a row are the same, byte for byte. */
async function settle(page) {
  let before = '';
  await until('a screen that stands still', async () => {
    await pause(PAUSE_MS);
    const now = await page.screenshot({ encoding: 'base64' });
    const same = now === before;
    before = now;
    return same;
  });
}

async function open(page, shot) {
  const address = new URL('/viewer', job.base);
  address.searchParams.set('StudyInstanceUIDs', shot.study);
  address.searchParams.set('hangingProtocolId', shot.protocol);
  await page.setViewport({ width: shot.width, height: shot.height });
  await page.goto(address.href, { waitUntil: 'domcontentloaded', timeout: job.timeoutS * 1000 });
  await until(`${shot.panes} viewports with a slice`, async () => {
    const texts = await paneTexts(page);
    return texts.length === shot.panes && texts.every(text => sliceOf(text) || shot.volume);
  });
  await settle(page);
}

/** Turn the wheel over the first viewport; the others have to follow by themselves. */
async function scroll(page, notches) {
  const pane = await page.$(PANE);
  const box = await pane.boundingBox();
  await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
  for (let turned = 0; turned < Math.abs(notches); turned += 1) {
    await page.mouse.wheel({ deltaY: Math.sign(notches) * 120 });
    await pause(PAUSE_MS);
  }
  await settle(page);
}

async function take(page, shot) {
  await open(page, shot);
  if (shot.wheel) {
    const start = (await paneTexts(page)).map(sliceOf);
    await scroll(page, shot.wheel);
    const end = (await paneTexts(page)).map(sliceOf);
    if (end[0] === start[0]) throw new Error(`the wheel did not move the first viewport from ${start[0]}`);
  }
  const texts = await paneTexts(page);
  const slices = texts.map(sliceOf);
  if (!shot.volume && new Set(slices).size !== 1) throw new Error(`not the same slice: ${slices.join(' and ')}`);
  const series = await seriesInPanel(page);
  if (shot.as_list) await page.click(LIST_BUTTON);
  await page.mouse.move(0, 0);
  await settle(page);
  const element = shot.element ? await page.$(shot.element) : page;
  await element.screenshot({ path: shot.out });
  return { out: shot.out, panes: texts, series };
}

async function seriesInPanel(page) {
  return page.$$eval('[data-cy="series-description-label"]', labels => labels.map(label => label.textContent));
}

const browser = await puppeteer.launch({
  executablePath: job.chromium,
  headless: true,
  args: FLAGS,
  userDataDir: job.profile,
  protocolTimeout: job.timeoutS * 1000,
});
try {
  const page = await browser.newPage();
  // The tour of a first visit would cover the images.
  await page.evaluateOnNewDocument(() => localStorage.setItem('shownTours', '["basicViewerTour"]'));
  for (const shot of job.shots) console.log(JSON.stringify(await take(page, shot)));
} finally {
  await browser.close();
}
