"""A common alternative that serves the same SQL file: FastAPI and asyncpg, without tuning."""

import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

import asyncpg
from fastapi import FastAPI, HTTPException, Response


def load(name: str, *parameters: str) -> str:
    """Return a file's statement with its parameters numbered in the given order."""
    sql = Path(os.environ['API_FUNCTIONS'], f'{name}.sql').read_text()
    for number, parameter in enumerate(parameters, 1):
        sql = re.sub(rf'(?<!:):{parameter}\b', f'${number}', sql)
    return sql


SQL = load('available_benefits', 'venue_id', 'person_id', 'timestamp')


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep a connection pool open while the application runs."""
    size = int(os.environ['API_POOL_SIZE'])
    async with asyncpg.create_pool(
        os.environ['DATABASE_URL'], min_size=size, max_size=size
    ) as pool:
        app.state.pool = pool
        yield


app = FastAPI(lifespan=lifespan)


@app.get('/venues/{venueId}/available-benefits')
async def available_benefits(
    venueId: int,  # noqa: N803 - the name that clients use
    personId: int,  # noqa: N803
    timestamp: datetime | None = None,
) -> Response:
    """Answer with the result of available_benefits.sql."""
    row = await app.state.pool.fetchrow(SQL, venueId, personId, timestamp)
    if row['missing']:
        raise HTTPException(404, f'there is no {row["missing"]}')
    return Response(row['body'], media_type='application/json')
