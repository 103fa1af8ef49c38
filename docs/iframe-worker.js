// A browser starts no worker for a page on a disk. There the search runs in a
// hidden frame that answers like one.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.inner = frame.contentWindow;
      this.inner.postMessage = (data) => this.send(this, data);
      this.inner.importScripts = async (...urls) => {
        for (const each of urls) await this.load(each);
      };
      this.started = this.load(url);
    }

    postMessage(data) {
      this.started.then(() => this.send(this.inner, data));
    }

    send(target, data) {
      target.dispatchEvent(new MessageEvent("message", { data }));
    }

    load(url) {
      return new Promise((resolve, reject) => {
        const script = this.inner.document.createElement("script");
        script.src = url;
        script.onload = resolve;
        script.onerror = reject;
        this.inner.document.body.append(script);
      });
    }
  };
}
