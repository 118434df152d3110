"""A team of threads, which meet as the processes of a launcher do."""

import threading

from svl_core.progress import Run, Team


def as_team(count, body):
    """What `body(run)` returns, or raises, in each of `count` threads that are one team."""
    meeting = threading.Barrier(count)
    told, outcomes = [None] * count, [None] * count

    def exchanging(rank):
        def exchange(work):
            try:
                told[rank] = work(), None
            except Exception as error:
                told[rank] = None, error
            meeting.wait(20)
            everything = list(told)
            meeting.wait(20)  # nobody tells the next before all have heard this
            for _, error in everything:
                if error:
                    raise error
            return [result for result, _ in everything]

        return exchange

    def process(rank):
        try:
            outcomes[rank] = body(Run(team=Team(rank, count, exchanging(rank))))
        except Exception as error:
            outcomes[rank] = error

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return outcomes
