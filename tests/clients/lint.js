// What `redocly lint` does, without the rest of Redocly's command, which is 170 MB.
import { formatProblems, getTotals, lint, loadConfig } from '@redocly/openapi-core';

const config = await loadConfig({ configPath: 'redocly.yaml' });
const problems = await lint({ ref: process.argv[2], config });
formatProblems(problems, { format: 'codeframe', totals: getTotals(problems) });
process.exitCode = problems.length > 0 ? 1 : 0;
