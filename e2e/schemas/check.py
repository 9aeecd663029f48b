"""Holds every configuration against every check; started by `run`, with the Python that has what it needs."""

import json
import sys

import cases
import faults
import links
import pods
import shapes

OTHERS = (pods.restricted, pods.once, shapes.names, shapes.ranges, links.selectors, links.references)


def main():
    releases, schemas = shapes.releases(), shapes.Schemas()

    def of_schema(world):
        return [problem for release in releases for problem in schemas(world, release)]

    def of_keda(world):
        return [problem for release in releases for problem in shapes.keda(world, release)]

    def problems(world):
        # The others take for granted what shapes hold.
        return of_schema(world) + of_keda(world) or [problem for check in OTHERS for problem in check(world)]

    worlds = {world.name: world for world in cases.worlds()}
    wrong = [f"{world.name}: {problem}" for world in worlds.values() for problem in problems(world)]
    # In what is good so far: beside another fault one might be found for the wrong reason, or not.
    planted, lost = (0, []) if wrong else faults.missed(worlds["rich"], of_schema, of_keda)
    wrong += lost
    for problem in wrong:
        print(problem, file=sys.stderr)
    objects = [found for world in worlds.values() for found in world.objects]
    print(json.dumps({
        "releases": releases,
        "files": len(worlds),
        "fleets": sum(len(world.fleets()) for world in worlds.values()),
        "objects": len(objects),
        "of_keda": sum(found["apiVersion"] == shapes.KEDA for found in objects),
        "pods": sum(len(world.pods()) for world in worlds.values()),
        "faults_planted": planted,
        "faults_missed": len(lost),
        "problems": len(wrong),
    }))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
