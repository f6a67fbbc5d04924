// One request from submit to picture, as signals that views read. The server keeps it: a reload of the page loses nothing.
import { signal, computed } from "@preact/signals-core";
import * as api from "./api.js";
import { say } from "./ui.js";

const TRIES = 5; // to take up a broken status stream, each after a longer pause

/** A request in the making. `state`: sending, queued, drawing, done, failed, cancelled. */
export class Run {
  /** `brief`: of the input what differs from the defaults, as the result shows it. */
  constructor(id, input, brief = input) {
    this.id = id;
    this.input = input;
    this.brief = brief;
    this.state = signal("sending");
    this.requestId = signal("");
    this.position = signal(null);
    this.progress = signal(0); // 0 to 1
    this.previews = signal([]);
    this.logs = signal([]);
    this.output = signal(null);
    this.warnings = signal([]);
    this.problem = signal(null);
    this.started = signal(null); // milliseconds of the page's clock
    this.submitted = performance.now();
    this.ended = signal(null);
    this.inferenceTime = signal(null); // seconds, as the server measured
    this.busy = computed(() => ["sending", "queued", "drawing"].includes(this.state.value));
    this.abort = new AbortController();
  }

  /** Submit and follow to the end. Never throws: what goes wrong is in `problem`. */
  async start() {
    try {
      const { request_id, queue_position } = await api.submit(this.id, this.input);
      this.requestId.value = request_id;
      this.position.value = queue_position;
      this.state.value = "queued";
      if (this.unwanted) await this.cancel();
      await this.follow();
    } catch (error) {
      this.fail(error);
    }
    return this;
  }

  /** The status stream to its end; taken up again when the connection breaks. */
  async follow() {
    for (let tries = 0; ; tries++) {
      let last;
      try {
        let told = false;
        for await (last of api.statuses(this.id, this.requestId.value, this.abort.signal)) {
          tries = 0;
          if (!told) this.logs.value = []; // every stream tells all of them
          told = true;
          this.hear(last);
        }
      } catch (error) {
        if (error.name === "AbortError" || (error.status && error.status < 500)) throw error;
      }
      if (last?.status === "COMPLETED") return this.finish(last);
      if (tries >= TRIES) throw new api.Problem(0, { detail: "The connection was lost. The request goes on at the server." });
      await new Promise((resolve) => setTimeout(resolve, 300 * 2 ** tries));
    }
  }

  hear(status) {
    this.position.value = status.queue_position ?? null;
    if (status.status === "IN_PROGRESS") {
      this.state.value = "drawing";
      this.started.value ??= performance.now();
    }
    if (status.status === "IN_QUEUE") {
      // Again, when its runner was lost: another one begins anew.
      this.state.value = "queued";
      this.started.value = null;
      this.progress.value = 0;
      this.previews.value = [];
    }
    if (status.progress !== undefined) this.progress.value = status.progress;
    if (status.images?.length) this.previews.value = status.images;
    if (status.logs?.length) this.logs.value = [...this.logs.value, ...status.logs];
  }

  async finish(status) {
    this.inferenceTime.value = status.metrics?.inference_time ?? null;
    if (status.error_type === "client_cancelled") {
      this.end("cancelled");
      return;
    }
    const { output, warnings } = await api.result(this.id, this.requestId.value);
    this.output.value = output;
    this.warnings.value = warnings;
    this.progress.value = 1;
    this.end("done");
  }

  async cancel() {
    this.unwanted = true;
    if (!this.requestId.value) return;
    try {
      await api.cancel(this.id, this.requestId.value);
    } catch (error) {
      // 400: it was done already. Whatever else it is, the request goes on and is followed.
      if (error.status !== 400) say(`It could not be cancelled. ${error.message}`);
    }
  }

  fail(error) {
    if (error.name === "AbortError") return;
    this.problem.value = error;
    this.end(error.status === 499 ? "cancelled" : "failed");
  }

  end(state) {
    this.ended.value = performance.now();
    this.state.value = state;
  }
}
