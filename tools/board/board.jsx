import React from 'react';
import 'uplot/dist/uPlot.min.css';
import '@fontsource/inter/400.css';
import '@fontsource/inter/500.css';
import { createRoot } from 'react-dom/client';
import { createTheme, createDataFrame, FieldType, getDisplayProcessor, dateTime, ThemeContext as DataTheme } from '@grafana/data';
import { TimeSeries, PanelChrome, GlobalStyles, ThemeContext, Icon } from '@grafana/ui';

const theme = createTheme({ colors: { mode: 'dark' } });
const { board, data } = window.INPUT;
const WIDTH = 800, CELL = 34, GAP = 8, UNIT = WIDTH / 24;
const GRAPH = { drawStyle: 'line', lineInterpolation: 'linear', barAlignment: 0, lineWidth: 1, fillOpacity: 0,
  gradientMode: 'none', spanNulls: false, showPoints: 'auto', pointSize: 5, stacking: { mode: 'none', group: 'A' },
  axisPlacement: 'auto', axisLabel: '', axisColorMode: 'text', axisBorderShow: false, scaleDistribution: { type: 'linear' },
  axisCenteredZero: false, hideFrom: { tooltip: false, viz: false, legend: false }, thresholdsStyle: { mode: 'off' } };

const legend = (format, labels) => format.replace(/{{(\w+)}}/g, (_, name) => labels[name] ?? '');
const put = (config, path, value) => {
  const names = path.split('.'), last = names.pop();
  names.reduce((at, name) => (at[name] ??= {}), config)[last] = value;
};

function configOf(panel, name) {
  const config = structuredClone(panel.fieldConfig.defaults);
  config.custom = { ...GRAPH, ...config.custom };
  for (const { matcher, properties } of panel.fieldConfig.overrides) {
    const [, pattern] = matcher.options.match(/^\/(.*)\/$/);
    if (new RegExp(pattern).test(name)) for (const { id, value } of properties) put(config, id, value);
  }
  config.displayName = name;
  return config;
}

function framesOf(panel) {
  let index = 0;
  return data.panels.filter((one) => one.title === panel.title).flatMap(({ target, result }) =>
    result.map(({ metric, values }) => {
      const name = legend(target.legendFormat, metric);
      const field = { name: 'Value', type: FieldType.number, labels: metric,
        values: values.map(([, value]) => Number(value)), config: configOf(panel, name) };
      field.state = { seriesIndex: index++, displayName: name };
      const time = { name: 'Time', type: FieldType.time, values: values.map(([at]) => at * 1000), config: {} };
      const frame = createDataFrame({ refId: target.refId, fields: [time, field] });
      frame.fields.forEach((one) => { one.display = getDisplayProcessor({ field: one, theme }); });
      frame.fields[1].state = field.state;
      return frame;
    }));
}

const timeRange = { from: dateTime(data.start * 1000), to: dateTime(data.end * 1000) };
timeRange.raw = timeRange;

function Panel({ panel, height, width }) {
  const frames = framesOf(panel);
  return (
    <PanelChrome title={panel.title} description={panel.description} width={width} height={height}>
      {(w, h) => frames.length > 0 && (
        <TimeSeries frames={frames} structureRev={1} timeRange={timeRange} timeZone="utc" width={w} height={h}
          legend={panel.options.legend} options={panel.options} theme={theme} />)}
    </PanelChrome>);
}

const Row = ({ title, open, count }) => (
  <div style={{ color: theme.colors.text.primary, fontSize: 16, fontWeight: 500, display: 'flex', gap: 4, alignItems: 'center', height: CELL }}>
    <span style={{ color: theme.colors.text.secondary, width: 14 }}>{open ? '▾' : '▸'}</span>{title}
    {!open && <span style={{ color: theme.colors.text.secondary, fontSize: 12, fontWeight: 400, fontStyle: 'italic' }}>({count} panels)</span>}
  </div>);

function Board() {
  // The top of the dashboard, its second row folded.
  const panels = board.panels, shown = (title) => panels.find((one) => one.title === title);
  const boxes = [[shown('Requests per second by version'), 0, 0, 24, 8],
    [shown('Share of connections opened by version'), 0, 10, 16, 8], [shown('Connections opened per second'), 16, 10, 8, 8]];
  const y = (row) => row * CELL;
  return (
    <div id="board" style={{ position: 'relative', width: WIDTH, height: y(18), background: theme.colors.background.canvas }}>
      {boxes.map(([panel, x, row, w, h]) => (
        <div key={panel.id} style={{ position: 'absolute', left: x * UNIT + GAP / 2, top: y(row) + GAP / 2, width: w * UNIT - GAP, height: h * CELL - GAP }}>
          <Panel panel={panel} width={w * UNIT - GAP} height={h * CELL - GAP} />
        </div>))}
      <div style={{ position: 'absolute', left: GAP, top: y(8) }}><Row title="Requests" count={2} /></div>
      <div style={{ position: 'absolute', left: GAP, top: y(9) }}><Row title="The split" open /></div>
    </div>);
}

createRoot(document.getElementById('root')).render(
  <ThemeContext.Provider value={theme}><GlobalStyles /><Board /></ThemeContext.Provider>);
