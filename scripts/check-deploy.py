#!/usr/bin/env python3
"""Checks what can be checked of the Dockerfile and of deploy/ without a container engine.

    python3 scripts/check-deploy.py

- Dockerfile: each path that it copies is in the checkout and not ignored, or made by an earlier
  stage; what the sources embed is copied before they are built; it ends as a numeric user that is
  not root.
- deploy/compose.yaml: parses, has only known keys (the schema below), and names files that exist.
- deploy/kubernetes/*.yaml: each object validates, strictly, against Kubernetes' own OpenAPI
  schema, as the package kubernetes-validate carries it; references between objects resolve.
- Ports, probe paths, users and configuration keys agree with each other.

Nothing is started, so that this does not show that an image builds or that a pod runs. Packages
come from PyPI, into a virtual environment below Cargo's target folder. Python 3.9 or newer.
"""

import fnmatch
import os
import re
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True

import virtual_environment  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = [
    "PyYAML==6.0.3",
    "jsonschema==4.26.0",
    "kubernetes-validate==1.37.0",
    "tomli==2.3.0; python_version < '3.11'",
]
KUBERNETES_VERSION = "1.37"
HEALTH_PATHS = {"live": "/v2/health/live", "ready": "/v2/health/ready"}

problems = []


def check(fits, message):
    """Notes a problem unless `fits`."""
    if not fits:
        problems.append(message)
    return bool(fits)


# --- Dockerfile -------------------------------------------------------------------------------


def instructions(path):
    """Pairs of an instruction's name and its text, comments and line breaks taken out."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n", " ", "\n".join(lines))
    for line in filter(str.strip, text.splitlines()):
        name, _, rest = line.strip().partition(" ")
        yield name.upper(), rest.strip()


def is_in_context(source, rules):
    """Whether .dockerignore lets a path through: the last rule that matches decides."""
    parts = Path(source).parts
    covering = ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
    kept = True
    for rule in rules:
        pattern = rule.lstrip("!").strip("/")
        if any(fnmatch.fnmatchcase(path, pattern) for path in covering):
            kept = rule.startswith("!")
    return kept


def is_git_ignored(source):
    answer = subprocess.run(["git", "-C", str(ROOT), "check-ignore", "--quiet", source])
    return answer.returncode == 0


def embedded_files():
    """Files and folders that the sources take in when they are compiled."""
    for path in sorted((ROOT / "src").rglob("*.rs")):
        # What stands below a file's tests, or in a file of tests, is not in the binary.
        text = path.read_text().split("#[cfg(test)]\nmod tests {")[0]
        if path.name == "tests.rs":
            continue
        for found in re.findall(r"include_(?:bytes|str)!\(\s*\"([^\"]+)\"", text):
            yield path, os.path.relpath((path.parent / found).resolve(), ROOT)
        for found in re.findall(r"migrate!\(\s*\"([^\"]+)\"", text):
            yield path, os.path.normpath(found)


def lies_in(path, copied):
    return any(path == base or path.startswith(base.rstrip("/") + "/") for base in copied)


def check_dockerfile(manifest):
    """Checks the Dockerfile; returns the port that it exposes."""
    rules = [
        line.strip()
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.strip() and not line.startswith("#")
    ]
    binary = manifest["package"]["name"]
    targets = [
        target.get("path", f"{folder}/{target['name']}.rs")
        for kind, folder in (("bench", "benches"), ("test", "tests"), ("example", "examples"))
        for target in manifest.get(kind, [])
    ]
    stages, copied, builds = {}, [], 0
    final = {}
    for name, rest in instructions(ROOT / "Dockerfile"):
        if name == "FROM":
            stage = re.fullmatch(r"(\S+)(?:\s+AS\s+(\S+))?", rest, re.IGNORECASE)
            if check(stage, f"Dockerfile: FROM {rest} cannot be read"):
                stages[stage[2] or str(len(stages))] = {"workdir": "/", "builds": False}
            final = {}
        elif name == "WORKDIR":
            stages[list(stages)[-1]]["workdir"] = rest
        elif name in ("COPY", "ADD"):
            options = re.findall(r"--(\w+)=(\S+)", rest)
            *sources, _destination = re.sub(r"--\w+(=\S+)?\s+", "", rest).split()
            origin = dict(options).get("from")
            for source in sources:
                if origin is None:
                    exists = (ROOT / source).exists()
                    check(exists, f"Dockerfile: {source} is copied, but not in the checkout")
                    kept = is_in_context(source, rules)
                    check(kept, f"Dockerfile: {source} is copied, but .dockerignore leaves it out")
                    check(not is_git_ignored(source), f"Dockerfile: {source} is ignored by git")
                    copied.append(os.path.normpath(source))
                elif check(
                    origin in list(stages)[:-1], f"Dockerfile: there is no stage {origin} before"
                ):
                    made = f"{stages[origin]['workdir']}/target/release/{binary}"
                    fits = source == made and stages[origin]["builds"]
                    check(fits, f"Dockerfile: {source} is not what stage {origin} builds, {made}")
        elif name == "RUN" and "cargo build" in rest:
            builds += 1
            stages[list(stages)[-1]]["builds"] = True
            made = [path for paths in re.findall(r"\btouch ([^&]+)", rest) for path in paths.split()]
            copied.extend(map(os.path.normpath, made))
            for target in targets:
                fits = lies_in(target, copied)
                check(fits, f"Dockerfile: cargo build needs {target}, which Cargo.toml names")
            if builds > 1 or "main.rs" not in rest:
                for path, embedded in embedded_files():
                    where = path.relative_to(ROOT)
                    fits = lies_in(embedded, copied)
                    check(fits, f"Dockerfile: {where} embeds {embedded}, which is not copied")
        elif name in ("USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD", "ENV"):
            final[name] = rest
    user = re.fullmatch(r"(\d+)(:\d+)?", final.get("USER", ""))
    check(user and int(user[1]) > 0, "Dockerfile: it must end as a numeric user that is not root")
    health = final.get("HEALTHCHECK", "").partition("CMD")[2].strip()
    check(health == f'["{binary}", "health"]', f"Dockerfile: the health check runs {health}")
    check(final.get("ENTRYPOINT") == f'["{binary}"]', f"Dockerfile: the entry is not {binary}")
    port = final.get("EXPOSE", "")
    listen = re.search(r"FORGETD_HTTP__LISTEN=\S*:(\d+)", final.get("ENV", ""))
    check(listen and listen[1] == port, f"Dockerfile: it exposes {port}, but listens elsewhere")
    return {"port": int(port or 0), "user": int(user[1]) if user else 0}


# --- Compose ----------------------------------------------------------------------------------


def closed(properties, required=()):
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


TEXT = {"type": "string"}
TEXTS = {"type": "array", "items": TEXT}
DURATION = {"type": "string", "pattern": r"^(\d+(us|ms|s|m|h))+$"}
NAMED = {"type": "object", "patternProperties": {r"^[A-Za-z0-9._-]+$": {}}}
SERVICE = closed(
    {
        "build": TEXT,
        "image": TEXT,
        "entrypoint": TEXTS,
        "command": TEXTS,
        "environment": {"type": "object", "additionalProperties": TEXT},
        "secrets": TEXTS,
        "volumes": {"type": "array", "items": {"type": "string", "pattern": "^[^:]+:/[^:]*(:ro)?$"}},
        "ports": {
            "type": "array",
            "items": {"type": "string", "pattern": r"^(\d+\.){3}\d+:\d+:\d+$"},
        },
        "depends_on": {
            "type": "object",
            "additionalProperties": closed(
                {"condition": {"enum": ["service_started", "service_healthy"]}}, ["condition"]
            ),
        },
        "healthcheck": closed(
            {
                "test": {"type": "array", "items": TEXT, "minItems": 2},
                "interval": DURATION,
                "timeout": DURATION,
                "retries": {"type": "integer", "minimum": 1},
            },
            ["test"],
        ),
        "read_only": {"type": "boolean"},
        "tmpfs": TEXTS,
        "cap_drop": TEXTS,
        "security_opt": TEXTS,
        "stop_grace_period": DURATION,
        "restart": {"enum": ["no", "always", "on-failure", "unless-stopped"]},
    },
    ["image"],
)
COMPOSE = closed(
    {
        "name": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]*$"},
        "services": {"type": "object", "additionalProperties": SERVICE},
        "volumes": {"type": "object", "additionalProperties": {"type": "null"}},
        "secrets": {"type": "object", "additionalProperties": closed({"file": TEXT}, ["file"])},
    },
    ["services"],
)


def check_compose(image, keys):
    import jsonschema
    import yaml

    path = ROOT / "deploy" / "compose.yaml"
    compose = yaml.safe_load(path.read_text())
    errors = list(jsonschema.Draft202012Validator(COMPOSE).iter_errors(compose))
    for error in errors:
        problems.append(f"compose.yaml: {'.'.join(map(str, error.path))}: {error.message}")
    if errors:
        return
    services = compose["services"]
    for name, service in services.items():
        at = f"compose.yaml: {name}"
        for secret in service.get("secrets", []):
            check(secret in compose.get("secrets", {}), f"{at}: there is no secret {secret}")
        for other, how in service.get("depends_on", {}).items():
            if check(other in services, f"{at}: there is no service {other}"):
                waits = how["condition"] == "service_healthy"
                has_check = "healthcheck" in services[other]
                check(has_check or not waits, f"{at}: {other} has no health check to wait for")
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                exists = (path.parent / source).is_file()
                check(exists, f"{at}: there is no file {source}")
            else:
                check(source in compose.get("volumes", {}), f"{at}: there is no volume {source}")
        mounted = " ".join(service.get("entrypoint", []))
        mounted += " ".join(service.get("environment", {}).values())
        for secret in re.findall(r"/run/secrets/([\w-]+)", mounted):
            check(secret in service.get("secrets", []), f"{at}: has no secret {secret}")
        for variable in re.findall(r"FORGETD_\w+__\w+", mounted + str(service.get("environment"))):
            check_variable(variable, keys, at)
    ours = services["forgetd"]
    check((path.parent / ours["build"] / "Dockerfile").is_file(), "compose.yaml: no Dockerfile")
    ports = [int(port.rsplit(":", 1)[1]) for port in ours.get("ports", [])]
    check(ports == [image["port"]], f"compose.yaml: publishes {ports}, not {image['port']}")
    for secret in compose.get("secrets", {}).values():
        ignored = is_git_ignored(os.path.normpath(f"deploy/{secret['file']}"))
        check(ignored, f"compose.yaml: git would take the secret {secret['file']}")


# --- Kubernetes -------------------------------------------------------------------------------


def check_kubernetes(image, keys):
    import kubernetes_validate
    import yaml

    objects = []
    for path in sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml")):
        for item in filter(None, yaml.safe_load_all(path.read_text())):
            at = f"{path.name}: {item.get('kind')} {item.get('metadata', {}).get('name')}"
            try:
                kubernetes_validate.validate(item, KUBERNETES_VERSION, strict=True)
            except kubernetes_validate.ValidationError as error:
                problems.append(f"{at}: {'.'.join(map(str, error.path))}: {error.message}")
                continue
            objects.append((at, item))

    def named(kind):
        return {item["metadata"]["name"]: item for _, item in objects if item["kind"] == kind}

    secrets, config_maps = named("Secret"), named("ConfigMap")
    for at, item in objects:
        if item["kind"] == "Deployment":
            check_deployment(at, item, image, keys, secrets, config_maps)
        elif item["kind"] == "ConfigMap":
            check_config(at, item["data"]["forgetd.toml"], keys, image["port"])
        elif item["kind"] in ("Service", "PodDisruptionBudget"):
            check_selection(at, item, named("Deployment").values())
    kinds = sorted({item["kind"] for _, item in objects})
    for kind in ("ConfigMap", "Deployment", "PodDisruptionBudget", "Secret", "Service"):
        check(kind in kinds, f"kubernetes: there is no {kind}")


def check_deployment(at, item, image, keys, secrets, config_maps):
    pod = item["spec"]["template"]
    labels, selector = pod["metadata"]["labels"], item["spec"]["selector"]["matchLabels"]
    check(selector.items() <= labels.items(), f"{at}: its selector does not match its pods")
    security = pod["spec"].get("securityContext", {})
    check(security.get("runAsNonRoot") is True, f"{at}: may run as root")
    same_user = security.get("runAsUser") == image["user"]
    check(same_user, f"{at}: runs as another user than the image's {image['user']}")
    volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
    for volume in volumes.values():
        name = volume.get("configMap", {}).get("name")
        check(name is None or name in config_maps, f"{at}: there is no ConfigMap {name}")
    for container in pod["spec"]["containers"]:
        own = container.get("securityContext", {})
        fixed = own.get("readOnlyRootFilesystem") is True
        check(fixed, f"{at}: the root file system can be written")
        raised = own.get("allowPrivilegeEscalation")
        check(raised is False, f"{at}: privileges can be raised")
        check({"requests", "limits"} <= container["resources"].keys(), f"{at}: lacks resources")
        for mount in container.get("volumeMounts", []):
            check(mount["name"] in volumes, f"{at}: there is no volume {mount['name']}")
        for variable in container.get("env", []):
            check_variable(variable["name"], keys, at)
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            if reference is not None:
                secret = secrets.get(reference["name"], {})
                known = {**secret.get("data", {}), **secret.get("stringData", {})}
                check(reference["key"] in known, f"{at}: no such secret: {reference}")
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
        check(set(ports.values()) <= {image["port"]}, f"{at}: the image has no port of {ports}")
        is_api = "api" in container.get("args", [])
        check(not is_api or ports, f"{at}: answers requests, but on no port")
        expected = {"livenessProbe": "live", "startupProbe": "live", "readinessProbe": "ready"}
        for probe, state in expected.items():
            if probe not in container:
                check(not is_api, f"{at}: lacks {probe}")
                continue
            asked = container[probe]["httpGet"]
            fits = asked["path"] == HEALTH_PATHS[state]
            check(fits, f"{at}: {probe} asks {asked['path']}, not {HEALTH_PATHS[state]}")
            check(asked["port"] in ports, f"{at}: {probe} asks port {asked['port']}, not {ports}")


def check_selection(at, item, deployments):
    selector = item["spec"]["selector"]
    selector = selector.get("matchLabels", selector)
    selected = [
        deployment["spec"]["template"]
        for deployment in deployments
        if selector.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    ]
    if not check(len(selected) == 1, f"{at}: selects {len(selected)} Deployments, not one"):
        return
    offered = {
        port["name"]
        for container in selected[0]["spec"]["containers"]
        for port in container.get("ports", [])
    }
    for port in item["spec"].get("ports", []):
        check(port["targetPort"] in offered, f"{at}: its pods have no port {port['targetPort']}")


# --- Configuration and routes -----------------------------------------------------------------


def parse_toml(text):
    try:
        import tomllib
    except ModuleNotFoundError:
        import tomli as tomllib
    return tomllib.loads(text)


def known_keys():
    """Keys by section, as deploy/forgetd.toml shows them; keys and sections in comments too."""
    text = (ROOT / "deploy" / "forgetd.toml").read_text()
    shown = re.sub(r"(?m)^# (\w+ = |\[\w+\]$)", r"\1", text)
    keys = {section: set(values) for section, values in parse_toml(shown).items()}
    # Secrets have no place in the file, only words about them.
    for section, key in re.findall(r"FORGETD_([A-Z]+)__(\w+)", text):
        keys[section.lower()].add(key.lower())
    return keys


def check_variable(variable, keys, at):
    parts = variable.removeprefix("FORGETD_").lower().split("__")
    if variable.startswith("FORGETD_") and len(parts) == 2:
        fits = parts[1] in keys.get(parts[0], ())
        check(fits, f"{at}: {variable} sets no key of deploy/forgetd.toml")


def check_config(at, text, keys, port):
    config = parse_toml(text)
    for section, values in config.items():
        for key in values:
            check(key in keys.get(section, ()), f"{at}: there is no key {section}.{key}")
    listen = config.get("http", {}).get("listen", "")
    check(listen.endswith(f":{port}"), f"{at}: listens on {listen}, not on port {port}")


def check_routes():
    """The health routes are served ones, if the description of the API is there."""
    import yaml

    path = ROOT / "openapi.yaml"
    if not path.exists():
        print("check-deploy: openapi.yaml is not there; the probes' paths were not looked up in it")
        return
    served = yaml.safe_load(path.read_text())["paths"]
    for route in HEALTH_PATHS.values():
        check(route in served, f"openapi.yaml: there is no {route}")


def main():
    virtual_environment.enter(PACKAGES)
    keys = known_keys()
    image = check_dockerfile(parse_toml((ROOT / "Cargo.toml").read_text()))
    check_config("forgetd.toml", (ROOT / "deploy" / "forgetd.toml").read_text(), keys, image["port"])
    check_compose(image, keys)
    check_kubernetes(image, keys)
    check_routes()
    for problem in problems:
        print(f"check-deploy: {problem}", file=sys.stderr)
    if problems:
        sys.exit(1)
    print("check-deploy: the Dockerfile, compose.yaml and the Kubernetes manifests fit together")


if __name__ == "__main__":
    main()
